/** What runs in the worker: sent there as its text, so that it uses nothing from outside. */
function work() {
  let ort, session, settings;

  /** For every row or column that the graph takes, that of the photo: see `minimum`. */
  function places(length) {
    const { minimum, multiple } = settings;
    const target = length < minimum ? Math.ceil(minimum / multiple) * multiple : length;
    const reflects = target - length < length;
    const beyond = (place) => (reflects ? 2 * length - 2 - place : length - 1);
    return Uint32Array.from({ length: target }, (_, n) => (n < length ? n : beyond(n)));
  }

  /** Levels 0 to 255 as the graph takes them, with the roundings of float32. */
  function valuesOfLevels() {
    const unit = (level) => Math.fround(Math.fround(Math.fround(level / 255) - 0.5) / 0.5);
    const value = (level) =>
      settings.range === "0..1" ? Math.fround(Math.fround(unit(level) + 1) / 2) : unit(level);
    return Float32Array.from({ length: 256 }, (_, level) => value(level));
  }

  /** Luma as Pillow has it: ITU-R 601 in fixed point. */
  const luma = (r, g, b) => (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;

  function toTensor(pixels, rows, columns, width) {
    const values = valuesOfLevels();
    const plane = rows.length * columns.length;
    const data = new Float32Array(settings.channels[0] * plane);
    let n = 0;
    for (const row of rows) {
      for (const column of columns) {
        const at = 4 * (row * width + column);
        if (settings.channels[0] === 1) {
          data[n] = values[luma(pixels[at], pixels[at + 1], pixels[at + 2])];
        } else {
          for (let c = 0; c < 3; c++) data[c * plane + n] = values[pixels[at + c]];
        }
        n++;
      }
    }
    return new ort.Tensor("float32", data, [1, settings.channels[0], rows.length, columns.length]);
  }

  /** Writes a translation over the colours of a photo; alpha stays. */
  function intoPixels(tensor, pixels, width, height) {
    const [, channels, rows, columns] = tensor.dims;
    const level =
      settings.range === "0..1"
        ? (value) => Math.fround(value * 255)
        : (value) => Math.fround(Math.fround(Math.fround(value + 1) / 2) * 255);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (let c = 0; c < 3; c++) {
          const from = channels === 1 ? 0 : c;
          const value = tensor.data[(from * rows + y) * columns + x];
          pixels[4 * (y * width + x) + c] = level(value); // cut off and rounded by its type
        }
      }
    }
  }

  const steps = {
    async open({ runtime, wasm, model, settings: given }) {
      settings = given;
      const address = URL.createObjectURL(new Blob([runtime], { type: "text/javascript" }));
      ort = await import(address);
      URL.revokeObjectURL(address);
      ort.env.logLevel = "error";
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmBinary = wasm;
      session = await ort.InferenceSession.create(new Uint8Array(model), {
        executionProviders: ["wasm"],
      });
    },
    async translate({ pixels, width, height, style }) {
      const rows = places(height), columns = places(width);
      const feeds = { image: toTensor(pixels, rows, columns, width) };
      if (style) feeds.style = new ort.Tensor("float32", Float32Array.from(style), [1, style.length]);
      const { translation } = await session.run(feeds);
      intoPixels(translation, pixels, width, height);
      translation.dispose();
      return pixels;
    },
  };

  self.onmessage = async ({ data: { step, ...given } }) => {
    try {
      self.postMessage({ result: await steps[step](given) });
    } catch (error) {
      self.postMessage({ error: String(error?.message ?? error) });
    }
  };
}
