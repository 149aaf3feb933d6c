// Translates photos with an ONNX model in the browser, without a server.
//
// `patchkin export --page` writes the settings into index.html. onnxruntime-web computes in a
// worker, so that the page stays usable meanwhile and a translation can be cancelled.
//
// A page that a server sends fetches the model and the runtime as files. A page opened from a disk
// may fetch nothing: it takes them from embedded.js, which holds the same as text.
//
// Behind this file comes work(), the worker's part.
"use strict";

const settings = JSON.parse(document.getElementById("settings").textContent);
const MOST_PIXELS = 100e6;
/** A model knows things at the size that they had in training. */
const USUAL_SIDE = Math.max(256, ...settings.training_size);
const SIDES = [256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096];

/** What went wrong, in a sentence for the person at the page. */
class Told extends Error {}

/** A translation that was cancelled, or given up for a newer one. */
class Cancelled extends Error {}

// Files of the folder

const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);

/** The content of a file, fetched with word of how much has come. */
async function fetched(name, tell, signal) {
  try {
    const response = await fetch(name, { signal });
    if (!response.ok) {
      throw new Told(`${name} cannot be loaded (${response.status}). Was the whole folder copied?`);
    }
    const parts = [];
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return await new Blob(parts).arrayBuffer();
      parts.push(value);
      tell(value.length);
    }
  } catch (error) {
    if (error instanceof Told) throw error;
    throw new Told(`${name} cannot be loaded: the connection failed. Try again.`);
  }
}

/** The content of a file as embedded.js has it: Base64 of gzip, in pieces. */
async function embedded(name, tell) {
  const pieces = window.patchkinFiles[name].map((text) => {
    const letters = atob(text);
    const bytes = new Uint8Array(letters.length);
    for (let n = 0; n < letters.length; n++) bytes[n] = letters.charCodeAt(n);
    return bytes;
  });
  const stream = new Blob(pieces).stream().pipeThrough(new DecompressionStream("gzip"));
  const content = await new Response(stream).arrayBuffer();
  tell(content.byteLength);
  return content;
}

function loadEmbedded() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "embedded.js";
    script.onload = resolve;
    script.onerror = () => reject(new Told("embedded.js is missing. Was the whole folder copied?"));
    document.head.append(script);
  });
}

/** Model and runtime, loaded once. */
async function loadFiles(tell) {
  const fromDisk = location.protocol === "file:";
  if (fromDisk && typeof DecompressionStream === "undefined") {
    throw new Told("This browser is too old for this page: update it.");
  }
  if (fromDisk) await loadEmbedded();
  const load = fromDisk ? embedded : fetched;
  const failure = new AbortController();
  let come = 0;
  const add = (bytes) => tell((come += bytes));
  try {
    const entries = Object.entries(settings.files).map(async ([key, name]) => {
      return [key, await load(name, add, failure.signal)];
    });
    return Object.fromEntries(await Promise.all(entries));
  } catch (error) {
    failure.abort(); // of the others, which would go on telling
    throw error;
  }
}

// What computes

/** A function of one operation of SIMD: browsers without SIMD find it invalid. */
const SIMD = [
  [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123],
  [3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11],
].flat();

function checkBrowser() {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(Uint8Array.from(SIMD))) {
    throw new Told(
      "This browser has no WebAssembly with SIMD, which the model needs. Update the browser, or " +
        "switch WebAssembly on.",
    );
  }
}

/** What browsers and the runtime say where memory ends; a bare number is an exception of C++. */
const OF_MEMORY = /alloc|memory|abort|out of bounds|^\d+$/i;

/** A worker with the model in it; a new one after a failure or a cancelled translation. */
const engine = {
  files: null,
  worker: null,
  ready: null,
  giveUp: null,

  /** Does what has not been done yet of: check, load, open. */
  async prepare(tell) {
    checkBrowser();
    this.files ??= loadFiles(tell).catch((error) => {
      this.files = null;
      throw error;
    });
    const files = await this.files;
    this.ready ??= this.open(files).catch((error) => {
      this.stop();
      throw error;
    });
    await this.ready;
  },

  async open({ runtime, wasm, model }) {
    const source = new Blob([`(${work})()`], { type: "text/javascript" });
    const address = URL.createObjectURL(source);
    this.worker = new Worker(address);
    await this.ask({ step: "open", runtime, wasm, model, settings });
    URL.revokeObjectURL(address);
  },

  /** The pixels of a translation, RGBA. */
  async translate({ width, height, data: pixels }, style) {
    const cancelled = new Promise((_, reject) => {
      this.giveUp = () => reject(new Cancelled());
    });
    const asked = this.ask({ step: "translate", pixels, width, height, style });
    try {
      return await Promise.race([asked, cancelled]);
    } catch (error) {
      if (error instanceof Cancelled) throw error;
      this.stop();
      if (!OF_MEMORY.test(error.message)) throw error;
      throw new Told(
        `Translating ${width} × ${height} pixels needs more memory than the browser gives. ` +
          "Choose a smaller size.",
      );
    } finally {
      this.giveUp = null;
    }
  },

  ask(message) {
    return new Promise((resolve, reject) => {
      this.worker.onmessage = ({ data }) =>
        data.error === undefined ? resolve(data.result) : reject(new Error(data.error));
      this.worker.onerror = ({ message }) => reject(new Error(message || "The worker stopped."));
      this.worker.postMessage(message);
    });
  },

  /** Ends what is being translated, if anything is. */
  interrupt() {
    if (!this.giveUp) return;
    this.giveUp();
    this.stop();
  },

  stop() {
    this.worker?.terminate();
    this.worker = this.ready = null;
  },
};

// Photos

/** Width and height of an image file, without decoding its pixels. */
function sizeOf(file) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    const address = URL.createObjectURL(file);
    image.onload = () => {
      URL.revokeObjectURL(address);
      resolve([image.naturalWidth, image.naturalHeight]);
    };
    image.onerror = () => {
      URL.revokeObjectURL(address);
      reject(notAnImage(file));
    };
    image.src = address;
  });
}

function notAnImage(file) {
  const name = file.name || "what was pasted";
  return new Told(
    `${name} cannot be read as an image by this browser. PNG, JPEG and WebP files can; HEIC ` +
      "photos of a phone only by some.",
  );
}

/** The photo upright, its levels as they stand in the file: no colour profile is applied. */
async function decoded(file) {
  const [width, height] = await sizeOf(file);
  if (width * height > MOST_PIXELS) {
    throw new Told(
      `${file.name} has ${width} × ${height} pixels; this page takes ${MOST_PIXELS / 1e6} ` +
        "million at most. Make it smaller first.",
    );
  }
  if (!width || !height) throw notAnImage(file);
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw notAnImage(file);
  }
}

/** The size at which a photo is translated, its longer side at most `side`. */
function fitted(bitmap, side) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  return [bitmap.width, bitmap.height].map((length) => Math.max(1, Math.round(length * scale)));
}

// The page

const element = (id) => document.getElementById(id);
const state = { photo: null, name: "", note: "", stage: "", style: 0, run: 0, address: null };

function show(id, visible = true) {
  element(id).hidden = !visible;
}

/** Text for all to read, and how much is done: null where nobody knows. */
function say(text, fraction) {
  element("status").textContent = text;
  show("progress", fraction !== undefined);
  if (fraction === null) element("progress").removeAttribute("value");
  else if (fraction !== undefined) element("progress").value = fraction;
}

function complain(error) {
  say("");
  const text = error instanceof Told ? error.message : `This failed: ${error.message}`;
  element("alert").textContent = text;
  show("alert");
}

function tellLoading(bytes) {
  const all = settings.bytes;
  if (bytes >= all) say("Preparing the model", null);
  else say(`Loading the model: ${megabytes(bytes)} of ${megabytes(all)} MB`, bytes / all);
}

/** The styles of the domain that is chosen; none for models without. */
function stylesHere() {
  return settings.styles.filter((style) => style.domain === Number(element("domain").value));
}

function offerDomains() {
  const names = settings.domains;
  const options = names.map((name, number) => new Option(name, number));
  element("domain").replaceChildren(...options);
  show("domain-label", names.length > 1);
}

function offerSizes() {
  const { width, height } = state.photo;
  const longer = Math.max(width, height);
  const sides = SIDES.filter((side) => side < longer);
  const options = sides.map((side) => new Option(fitted(state.photo, side).join(" × "), side));
  options.push(new Option(`${width} × ${height}, as it is`, longer));
  const usual = [...sides, longer].filter((side) => side <= USUAL_SIDE);
  element("size").replaceChildren(...options);
  element("size").value = Math.max(...usual);
  show("size-label", sides.length > 0);
  show("size-note", sides.length > 0);
}

/** The photo at the size that is chosen: drawn on the page, and its pixels. */
function drawPhoto() {
  const [width, height] = fitted(state.photo, Number(element("size").value));
  for (const id of ["before", "after"]) Object.assign(element(id), { width, height });
  const context = element("before").getContext("2d", { willReadFrequently: true });
  try {
    context.imageSmoothingQuality = "high";
    context.drawImage(state.photo, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  } catch {
    throw new Told(`${width} × ${height} pixels are more than this browser draws. Choose fewer.`);
  }
}

/** As large as the window allows; small photos are shown enlarged, four times at most. */
function fitCompare() {
  const { width, height } = element("before");
  const scale = Math.min((0.62 * window.innerHeight) / height, 4);
  element("compare").style.width = `${Math.max(96, Math.round(width * scale))}px`;
}

function setSplit() {
  element("compare").style.setProperty("--split", `${element("split").value}%`);
}

/** What can be done while a translation is made, when it is there, and when there is none. */
function setStage(stage) {
  state.stage = stage;
  element("compare").classList.toggle("waiting", stage !== "done");
  show("cancel", stage === "busy");
  show("again", stage === "stopped");
  for (const id of ["split", "download"]) show(id, stage === "done");
  show("another-style", stage === "done" && stylesHere().length > 1);
}

/** Calls `tell` with the seconds since now, each second until what is waited for is there. */
async function counting(tell, waited) {
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  tell(0);
  const timer = setInterval(() => tell(Math.round(seconds())), 1000);
  try {
    return [await waited, seconds()];
  } finally {
    clearInterval(timer);
  }
}

async function translate() {
  const run = ++state.run;
  engine.interrupt();
  show("alert", false);
  say("Translating", null);
  try {
    const image = drawPhoto();
    fitCompare();
    setStage("busy");
    await engine.prepare(tellLoading);
    if (run !== state.run) return;
    const styles = stylesHere();
    const number = state.style % Math.max(1, styles.length);
    const size = `${image.width} × ${image.height} pixels`;
    const [pixels, seconds] = await counting(
      (count) => say(`Translating ${size}: ${count} s`, null),
      engine.translate(image, styles[number]?.numbers),
    );
    if (run !== state.run) return;
    image.data.set(pixels);
    element("after").getContext("2d").putImageData(image, 0, 0);
    await offerDownload();
    setStage("done");
    const which = styles.length > 1 ? `, style ${number + 1} of ${styles.length}` : "";
    say(`Translated ${size} in ${seconds.toFixed(1)} s${which}. ${state.note}`);
  } catch (error) {
    if (run !== state.run || error instanceof Cancelled) return;
    setStage("stopped");
    complain(error);
  }
}

async function offerDownload() {
  const blob = await new Promise((resolve) => element("after").toBlob(resolve, "image/png"));
  if (state.address) URL.revokeObjectURL(state.address);
  state.address = URL.createObjectURL(blob);
  element("download").href = state.address;
  element("download").download = `${state.name.replace(/\.[^.]*$/, "") || "photo"}_translated.png`;
}

function cancel() {
  state.run++;
  engine.interrupt();
  setStage("stopped");
  say("Cancelled.");
}

/** Takes the first of the files that were chosen, dropped or pasted. */
async function take(files) {
  const [file] = files;
  if (!file) return;
  const run = ++state.run;
  engine.interrupt();
  show("alert", false);
  say("Reading the photo", null);
  try {
    const photo = await decoded(file);
    if (run !== state.run) return;
    state.photo?.close();
    const note = files.length > 1 ? `One photo at a time: the first of ${files.length}.` : "";
    Object.assign(state, { photo, name: file.name || "", note });
  } catch (error) {
    if (run !== state.run) return;
    if (state.stage === "busy") setStage("stopped");
    complain(error);
    return;
  }
  element("stage").classList.add("filled");
  show("invitation", false);
  element("choose").textContent = "Another photo";
  show("compare");
  show("options", settings.domains.length > 1 || Math.max(state.photo.width, state.photo.height) > SIDES[0]);
  offerSizes();
  await translate();
}

function takeDropped(event) {
  event.preventDefault();
  show("drop", false);
  const { files } = event.dataTransfer;
  if (files.length) take(files);
  else complain(new Told("What was dropped is no file. Save the image first, then drop the file."));
}

function listen() {
  const on = (id, kind, does) => element(id).addEventListener(kind, does);
  for (const [button, input] of [["choose", "file"], ["photograph", "camera"]]) {
    on(button, "click", () => element(input).click());
    on(input, "change", () => {
      take([...element(input).files]);
      element(input).value = ""; // so that the same file can be chosen again
    });
  }
  on("split", "input", setSplit);
  on("cancel", "click", cancel);
  on("again", "click", translate);
  on("another-style", "click", () => {
    state.style++;
    translate();
  });
  on("domain", "change", translate);
  on("size", "change", translate);
  window.addEventListener("resize", () => state.photo && fitCompare());
  window.addEventListener("paste", (event) => take(event.clipboardData.files));
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("dragenter", () => show("drop"));
  window.addEventListener("dragleave", (event) => show("drop", event.relatedTarget !== null));
  window.addEventListener("drop", takeDropped);
}

async function start() {
  offerDomains();
  setSplit();
  listen();
  try {
    await engine.prepare(tellLoading);
    if (state.stage !== "busy") say(""); // else the translation, which waited too, goes on telling
  } catch (error) {
    complain(error);
  }
}

start();
