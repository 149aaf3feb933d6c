"""Compiled training steps. Fakes stand in for the compiler where it is not the point."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import median

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from patchkin.errors import DivergenceError
from patchkin.method import Method, Progress
from patchkin.methods.semantic_relation import SemanticRelation, SemanticRelationConfig
from patchkin.networks import PatchGANConfig, ResNetConfig
from patchkin.networks.normalization import InstanceNorm2d
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.storage.checkpoint import CheckpointStore, ModelHeader, read_model
from patchkin.training import TrainingConfig, Updater, compilation, fit
from patchkin.training.compilation import CompiledSteps
from support import ListData, cpu_fabric, random_batch

real_compiler = pytest.mark.filterwarnings("ignore")
"""torch warns itself while it compiles, which would be an error here and then a fallback."""


class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3, padding=1)
        self.outer = nn.Conv2d(4, 3, 3, padding=1)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def encode(self, x_BCHW):
        return self.inner(x_BCHW).tanh()

    def forward(self, x_BCHW):
        self.calls += 1
        return nnf.dropout(self.outer(self.encode(x_BCHW)), 0.1, self.training)


class Shelf(nn.Module):
    """Has buffers only, as an image pool."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x_BCHW):
        self.seen += x_BCHW.detach().mean()
        return x_BCHW


@dataclass(frozen=True)
class TwoConfig:
    width: int = 4


class Two(Method):
    """Two updates of one step: D, then G, with places drawn on the host."""

    name = "two"
    paper = "none"
    config_type = TwoConfig
    presets = {}

    def __init__(self, *, fails=None):
        super().__init__()
        self.G, self.D, self.pool = Coder(), nn.Conv2d(3, 1, 4), Shelf()
        self.G.decode = nn.Identity()  # an inner network, and no entry point
        self.fails = fails

    def adam(self):
        return {"G": AdamConfig(learning_rate=0.01), "D": AdamConfig(learning_rate=0.02)}

    def train_step(self, batch, update, progress):
        fake = self.G(batch.a_BCHW)
        shown = self.pool(fake).detach()
        places = progress.draws.places(fake.shape[2] * fake.shape[3], 5)

        def generator_terms():
            if self.fails is not None and progress.step == 2:
                raise self.fails
            close = (self.G.encode(fake) - self.G.encode(batch.b_BCHW)).flatten(2)[..., places]
            return {"adversarial": self.D(fake).square().mean(), "close": close.abs().mean()}

        update("D", loss=lambda: {"fake": (self.D(shown) - self.D(batch.b_BCHW)).mean()})
        update("G", loss=generator_terms)

    def translate(self, x_BCHW):
        return self.G(x_BCHW)


def make(**options):
    torch.manual_seed(0)
    return Two(**options)


def train(run_dir, method, *, steps=4, resume=False, **training):
    fit(
        method,
        ListData([random_batch(2, size=(8, 12), seed=i) for i in range(3)]),
        run_dir,
        fabric=cpu_fabric(),
        schedule=ScheduleConfig(steps=steps, ema_decay=0.9),
        training=TrainingConfig(log_every=2, save_every=2, preview_every=2, **training),
        header=ModelHeader(method="two", config={}),
        resume=resume,
    )
    return method


def final_bytes(run_dir, step=4):
    folder = CheckpointStore(run_dir).path(step)
    names = ("model.safetensors", "optimizers.safetensors")
    return [(folder / name).read_bytes() for name in names]


def use(monkeypatch, compile_):
    """A stand-in for the compiler."""
    monkeypatch.setattr(compilation, "compiler", lambda **_: compile_)


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("replication_pad2d_backward: no such kernel\nand more of it")


class FailingCompiler:
    """Compiled code that fails in its n-th call, at once or in its backward pass."""

    def __init__(self, at_call, *, backward):
        self.at_call, self.backward, self.calls = at_call, backward, 0

    def __call__(self, function):
        def compiled(*arguments):
            self.calls += 1
            if self.calls < self.at_call:
                return function(*arguments)
            if not self.backward:
                raise RuntimeError("\nreplication_pad2d_backward: no such kernel\nand more of it")
            return _FailsBackward.apply(function(*arguments))

        return compiled


# A step has 7 calls: G and in it its encoder, D twice, D for G, the encoder twice.
@pytest.mark.parametrize("at_call", [1, 2, 4, 5, 7, 11, 14])
@pytest.mark.parametrize("backward", [False, True])
def test_a_compiler_that_fails_costs_no_step(tmp_path, monkeypatch, capsys, at_call, backward):
    """Wherever it fails, also behind a step of D, the run ends with the bytes of a plain one."""
    train(tmp_path / "plain", make())
    capsys.readouterr()
    failing = FailingCompiler(at_call, backward=backward)
    use(monkeypatch, failing)
    train(tmp_path / "failed", make(), compile=True)
    assert failing.calls >= at_call
    assert final_bytes(tmp_path / "failed") == final_bytes(tmp_path / "plain")
    said = [line for line in capsys.readouterr().err.splitlines() if "--compile" in line]
    assert said == [
        "--compile: RuntimeError: replication_pad2d_backward: no such kernel. Training goes on "
        "uncompiled; no step is lost."
    ]


def test_a_failed_step_leaves_the_scale_of_16_bits_as_it_was(monkeypatch):
    scales = []
    for compile_ in (None, FailingCompiler(4, backward=True)):
        method, fabric = make(), cpu_fabric()
        precision = fabric.strategy.precision
        precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        backward = precision.backward
        precision.backward = lambda tensor, model, *a, p=precision, b=backward, **k: b(
            p.scaler.scale(tensor), model, *a, **k
        )
        use(monkeypatch, compile_)
        config = TrainingConfig(compile=compile_ is not None)
        update = Updater(method, fabric)
        steps = CompiledSteps(method, update, config, torch.device("cpu"), say=lambda _: None)
        run_steps(steps, method, update, [random_batch(2, size=(8, 8), seed=1)] * 2)
        scales.append((precision.scaler.state_dict(), method.state_dict()))
    torch.testing.assert_close(scales[0], scales[1], rtol=0, atol=0)
    assert scales[0][0]["scale"] == 2048.0  # four updates, one growth


def run_steps(steps, method, update, batches):
    def once(number, batch):
        torch.manual_seed(number)
        update.begin_step(1.0)
        method.train_step(batch, update, Progress.of_step(number, total_steps=100))

    for number, batch in enumerate(batches):
        steps(functools.partial(once, number, batch))


def compiled_steps(method, **options):
    said = []
    update = Updater(method, cpu_fabric())
    config = TrainingConfig(**{"compile": True, **options})
    steps = CompiledSteps(
        method, update, config, torch.device("cpu"), say=said.append, trial_steps=2
    )
    return steps, update, said


def test_an_error_of_the_method_is_its_own(tmp_path, monkeypatch, capsys):
    use(monkeypatch, lambda function: function)
    with pytest.raises(ZeroDivisionError, match="mine"):
        train(tmp_path, make(fails=ZeroDivisionError("mine")), compile=True)
    assert "--compile" not in capsys.readouterr().err


def test_a_divergence_is_not_tried_again(tmp_path, monkeypatch, capsys):
    use(monkeypatch, lambda function: function)
    method = make(fails=DivergenceError("The term `close` became nan"))
    with pytest.raises(DivergenceError, match=r"became nan at step 3\. Last good checkpoint"):
        train(tmp_path, method, compile=True)
    assert "--compile" not in capsys.readouterr().err


def test_only_steps_are_compiled_and_only_networks_with_weights(monkeypatch):
    compiled = {}

    def counting(function):
        owner = type(function.__self__).__name__

        def entry(*arguments):
            key = f"{owner}.{function.__name__}"
            compiled[key] = compiled.get(key, 0) + 1
            return function(*arguments)

        return entry

    use(monkeypatch, counting)
    method = make()
    plain = make().state_dict().keys()
    steps, update, said = compiled_steps(method)
    seen = []

    def step():
        method.train_step(random_batch(1, size=(8, 8)), update, Progress.of_step(0, total_steps=9))
        seen.append((method.state_dict().keys(), "encode" in vars(method.G)))

    for _ in range(3):
        steps(step)
        method.translate(random_batch(1).a_BCHW)
    # `encode` is called by `forward` too, which a compiler would see through.
    assert compiled == {"Coder.forward": 3, "Coder.encode": 9, "Conv2d.forward": 9}
    assert seen == [(plain, True)] * 3
    assert not vars(method.G).keys() & {"forward", "encode"}
    assert not said


@pytest.mark.parametrize("changed", [lambda x: x, lambda x: x.flip(3) * 0.9])
def test_a_gradient_penalty_is_not_compiled(monkeypatch, changed):
    """torch cannot differentiate the backward pass of compiled code. Images of a network are no
    sign of a penalty, although they need a gradient too."""
    compiled = []
    use(monkeypatch, lambda function: lambda *a: compiled.append(function) or function(*a))
    method = make()
    steps, _, said = compiled_steps(method)
    x_BCHW = random_batch(1).a_BCHW

    def step():
        images = x_BCHW.clone().requires_grad_()
        (slope,) = torch.autograd.grad(method.D(changed(images)).sum(), images, create_graph=True)
        slope.square().sum().backward()
        assert not compiled
        method.D(method.G(x_BCHW) * 2)
        assert [f.__name__ for f in compiled] == ["forward", "encode", "forward"]

    steps(step)
    assert not said
    assert method.D.weight.grad is not None


@real_compiler
def test_what_comes_up_later_is_not_compiled(monkeypatch):
    """Two steps of trial: the sizes of the third and fourth run as they are."""
    torch._dynamo.reset()
    graphs, runs = [], []

    def backend(graph, inputs):
        number = len(graphs)
        graphs.append(number)

        def counted(*arguments):
            runs.append(number)
            return graph.forward(*arguments)

        return counted

    use(monkeypatch, functools.partial(torch.compile, dynamic=False, backend=backend))
    sizes = [(8, 8), (10, 8), (12, 12), (8, 8), (14, 8)]
    batches = [random_batch(1, size=size) for size in sizes]
    methods = make(), make()
    steps, update, said = compiled_steps(methods[0])
    grown = []
    for batch in batches:
        before = len(graphs), len(runs)
        run_steps(steps, methods[0], update, [batch])
        grown.append((len(graphs) > before[0], len(runs) > before[1]))
    new, known, neither = (True, True), (False, True), (False, False)
    assert grown == [new, new, neither, known, neither]
    assert not said
    steps, update, _ = compiled_steps(methods[1], compile=False)
    for batch in batches:
        run_steps(steps, methods[1], update, [batch])
    torch.testing.assert_close(methods[0].state_dict(), methods[1].state_dict())


@pytest.mark.parametrize("compile_too", [False, True])
def test_cuda_graphs_need_cuda(monkeypatch, compile_too):
    use(monkeypatch, lambda function: function)
    steps, _, said = compiled_steps(make(), cuda_graphs=True, compile=compile_too)
    assert said == ["--cuda-graphs: the device is cpu, not cuda; training goes on without."]
    assert steps.active == compile_too


def test_every_step_with_cuda_graphs_is_announced(monkeypatch):
    marks, asked = [], []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    monkeypatch.setattr(torch, "compile", lambda f, **options: asked.append(options) or f)
    method = make()
    update = Updater(method, cpu_fabric())
    config = TrainingConfig(cuda_graphs=True)
    steps = CompiledSteps(
        method, update, config, torch.device("cuda"), say=pytest.fail, trial_steps=2
    )
    assert steps.active
    assert asked[0] == {
        "dynamic": False,
        "options": {"fallback_random": True, "triton.cudagraphs": True},
    }
    run_steps(steps, method, update, [random_batch(1, size=(8, 8))] * 4)
    assert len(marks) == 4


def test_options_of_the_compiler_exist():
    """A name that this torch does not know would be an error only once something is compiled."""
    from torch._inductor import config

    options = compilation.compiler(cuda_graphs=True).keywords["options"]
    for name in options:
        assert functools.reduce(getattr, name.split("."), config) is False  # the default


@real_compiler
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_gradients_behind_a_compiled_instance_norm(backend):
    """One image, patches sampled inside: the case of torch's fault, which `aot_eager` meets."""
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(1, 3, 6, 5, generator=generator, dtype=torch.float64)
    scale_KC = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    places_K = torch.tensor([3, 7, 20, 29])
    norm = InstanceNorm2d()

    def loss(x_BCHW):
        rows_KC = norm(2 * x_BCHW).permute(0, 2, 3, 1).flatten(1, 2)[0, places_K]
        return (rows_KC.square() * scale_KC).sum()

    def by_hand(x_BCHW):
        values = []
        for channel in range(3):
            pixels = 2 * x_BCHW[0, channel].flatten()
            mean = sum(pixels) / 30
            variance = sum((pixel - mean) ** 2 for pixel in pixels) / 30
            for row, place in enumerate(places_K.tolist()):
                normal = (pixels[place] - mean) / (variance + 1e-5) ** 0.5
                values.append(scale_KC[row, channel] * normal**2)
        return sum(values)

    gradients = []
    for function in (torch.compile(loss, backend=backend, dynamic=False), by_hand):
        x = x_BCHW.clone().requires_grad_()
        gradients.append(torch.autograd.grad(function(x), x)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


SMALL = SemanticRelationConfig(
    generator=ResNetConfig(ngf=4, blocks=5),
    discriminator=PatchGANConfig(ndf=4),
    num_patches=16,
    head_width=8,
)


def small_method(dtype):
    torch.manual_seed(0)
    return SemanticRelation(SMALL).to(dtype)


def terms_and_gradients(method, batch, entry=None):
    """Of the first update of D and of G and F, whose optimizers do not step."""
    update = Updater(method, cpu_fabric())
    for optimizer in update.optimizers.values():
        optimizer.step = lambda: None
    step = functools.partial(method.train_step, batch, update, Progress.of_step(0, total_steps=9))
    (entry or (lambda step: step()))(step)
    gradients = {name: p.grad.double() for name, p in method.named_parameters()}
    return {name: term.double() for name, term in update.terms.items()}, gradients


def compiled_entry(method, said):
    steps = CompiledSteps(
        method,
        Updater(method, cpu_fabric()),
        TrainingConfig(compile=True),
        torch.device("cpu"),
        say=said.append,
    )
    return steps


def distance(results, exact):
    """Relative, of all gradients together and of the terms."""

    def flat(part):
        return torch.cat([part[name].flatten() for name in sorted(part)])

    return [
        float((flat(a) - flat(b)).norm() / flat(b).norm())
        for a, b in zip(results, exact, strict=True)
    ]


@pytest.mark.slow
@real_compiler
def test_compiled_steps_in_float64_are_plain_ones():
    """Everything that is no rounding shows here: the two differ in the order of sums alone."""
    torch._dynamo.reset()
    method, said = small_method(torch.float64), []
    batch = random_batch(2, dtype=torch.float64)
    exact = terms_and_gradients(method, batch)
    compiled = terms_and_gradients(method, batch, compiled_entry(method, said))
    assert not said
    assert max(distance(compiled, exact)) < 1e-11


@pytest.mark.slow
@real_compiler
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_compiled_steps_are_as_exact_as_plain_ones(precision):
    """Against float64. Medians, since a ReLU that rounding turns over moves one image's gradient
    by more than all rounding together."""
    torch._dynamo.reset()
    wide, method, said = small_method(torch.float64), small_method(torch.float32), []
    compiled_ = compiled_entry(method, said)
    errors = []
    for seed in range(7):
        exact = terms_and_gradients(wide, random_batch(2, seed=seed, dtype=torch.float64))
        batch = random_batch(2, seed=seed)
        with cpu_fabric(precision).autocast():
            plain = distance(terms_and_gradients(method, batch), exact)
            compiled = distance(terms_and_gradients(method, batch, compiled_), exact)
        errors.append([*plain, *compiled])
    assert not said
    plain_terms, plain_gradients, terms, gradients = (median(e) for e in zip(*errors, strict=True))
    assert terms < 2 * plain_terms
    assert gradients < 2 * plain_gradients


@pytest.mark.slow
@real_compiler
def test_a_compiled_run_has_the_files_of_a_plain_one_and_resumes(tmp_path, capsys):
    torch._dynamo.reset()
    batches = [random_batch(1, size=(32, 32), seed=i) for i in range(3)]

    def run(name, *, steps=4, resume=False, **training):
        fit(
            small_method(torch.float32),
            ListData(batches),
            tmp_path / name,
            fabric=cpu_fabric(),
            schedule=ScheduleConfig(steps=4),
            training=TrainingConfig(log_every=1, save_every=2, keep=0, **training),
            header=ModelHeader(method="semantic-relation", config={}),
            resume=resume,
        )

    for name, training in (("plain", {}), ("compiled", {"compile": True})):
        run(name, **training)
    stores = [CheckpointStore(tmp_path / name) for name in ("plain", "compiled")]
    files = [sorted(p.name for p in store.path(4).iterdir()) for store in stores]
    assert files[0] == files[1]
    models = [read_model(store.path(4) / "model.safetensors")[1] for store in stores]
    assert models[0].keys() == models[1].keys()
    whole = final_bytes(tmp_path / "compiled")
    for path in stores[1].path(4).iterdir():
        path.unlink()
    run("compiled", resume=True, compile=True)
    assert final_bytes(tmp_path / "compiled") == whole
    assert "--compile" not in capsys.readouterr().err


@pytest.mark.slow
@real_compiler
def test_no_network_of_the_core_method_breaks_its_graph():
    method = small_method(torch.float32)
    x_BCHW = random_batch(1).a_BCHW
    maps = method.G.encode(x_BCHW, SMALL.taps)
    places = [torch.arange(3)] * len(maps)
    for function, arguments in (
        (method.G.forward_with_taps, (x_BCHW, SMALL.taps)),
        (method.G.encode, (x_BCHW, SMALL.taps)),
        (method.D.forward, (x_BCHW,)),
        (method.F.forward, (maps, places)),
    ):
        torch._dynamo.reset()
        explained = torch._dynamo.explain(function)(*arguments)
        assert (explained.graph_count, explained.graph_break_count) == (1, 0)
