"""Train a GAN: each step updates the discriminator, then the generator."""

from dataclasses import dataclass, field
from typing import NamedTuple

from minddpm import backend, nn, random
from minddpm.autodiff import Tensor, no_grad
from minddpm.autodiff.losses import sigmoid
from minddpm.backend import Array
from minddpm.baselines.gan.model import Discriminator, Generator, discriminator_loss, generator_loss
from minddpm.baselines.model_file import save_model
from minddpm.data import ImageDataset, batch_indices, to_float
from minddpm.errors import InputError
from minddpm.training.loop import Loop, State, check_finite, mean_norms, optimizer_state, to_table
from minddpm.training.loss_scale import LossScale
from minddpm.training.options import LoopOptions
from minddpm.training.run_directory import RunDirectory

GENERATOR_FILE = "generator.safetensors"
PREFIXES = "generator_", "discriminator_"  # prefixes of group names in a checkpoint


@dataclass(frozen=True)
class GANOptions(LoopOptions):
    """Options of a GAN's training; default: ten epochs of MNIST. lr applies to the generator."""

    steps: int = 4690
    batch_size: int = 128
    lr: float = 2e-4
    warmup_steps: int = 0
    ema_decay: float = 0.999
    lr_discriminator: float = field(
        default=4e-4, metadata={"help": "learning rate of the discriminator"}
    )
    beta1: float = field(default=0.5, metadata={"help": "Adam's beta1, of both networks"})

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        super().__post_init__()
        if not self.lr_discriminator > 0 or not 0 <= self.beta1 < 1:
            raise InputError(
                f"lr_discriminator={self.lr_discriminator}, beta1={self.beta1}: choose a rate "
                "above 0, and a beta1 of at least 0 and below 1."
            )


class Record(NamedTuple):
    """Values of one step for the log, as arrays of the backend."""

    step: int
    means: list[Array]  # losses of generator and discriminator, D(x), D(G(z))
    squared_norms: tuple[Array, Array]  # gradients of generator and discriminator


class GANLoop(Loop):
    """Trains generator and discriminator; exports the generator with averaged weights.

    In the log, d_real and d_fake are the means of D(x) and D(G(z)). Both are about 1/2 if the two
    networks are in balance.
    """

    columns = (
        "loss_generator", "loss_discriminator", "d_real", "d_fake",
        "grad_norm_generator", "grad_norm_discriminator", "lr",
    )  # fmt: skip
    optional = tuple(f"{prefix}loss_scale" for prefix in PREFIXES)

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        dataset: ImageDataset,
        run: RunDirectory,
        options: GANOptions,
    ):
        super().__init__(dataset, run, options)
        self.generator, self.discriminator = generator, discriminator
        self.optimizer_g, self.optimizer_d = (
            nn.Adam(
                network.parameters(), lr, (options.beta1, 0.999), weight_decay=options.weight_decay
            )
            for network, lr in ((generator, options.lr), (discriminator, options.lr_discriminator))
        )
        self.ema = nn.EMA(self.optimizer_g.flat, options.ema_decay)
        self.scale_g, self.scale_d = (LossScale(options.batch_size) for _ in PREFIXES)

    def train_step(self) -> Record:
        """Update each network once. Does not synchronise; results stay on the device."""
        step, options = self.step, self.options
        self.optimizer_g.lr = options.learning_rate(options.lr, step)
        self.optimizer_d.lr = options.learning_rate(options.lr_discriminator, step)
        loss_d, real, fake = self._discriminate(step)
        norm_d = self.optimizer_d.step(options.clip_norm)
        self.scale_d.update(norm_d)
        self.optimizer_d.zero_grad()
        self.discriminator.improve_singular()
        loss_g = self._generate(step)
        norm_g = self.optimizer_g.step(options.clip_norm, self.ema)
        self.scale_g.update(norm_g)
        self._zero_grad()
        self.step += 1
        probabilities = [sigmoid(x.data).mean() for x in (real, fake)]
        means = [loss_g.data.mean(), loss_d.data.mean(), *probabilities]
        return Record(step, means, (norm_g, norm_d))

    def _noise(self, step: int, which: int) -> Tensor:
        shape = self.options.batch_size, self.generator.latent
        return Tensor(random.normal(shape, self.options.seed, random.LATENT, 2 * step + which))

    def _discriminate(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the discriminator's gradients; return losses, real and fake logits, each [N]."""
        options = self.options
        chosen = batch_indices(len(self.dataset), options.batch_size, step, options.seed)
        x = Tensor(backend.xp.asarray(to_float(self.dataset.images[chosen])))
        with no_grad():
            generated = self.generator(self._noise(step, 0))
        real, fake = self.discriminator(x), self.discriminator(generated)
        loss = discriminator_loss(real, fake)
        self.scale_d.backward(loss.mean())
        self.scale_d.unscale(self.optimizer_d.flat.grad)
        return loss, real, fake

    def _generate(self, step: int) -> Tensor:
        """Compute the generator's gradients through the discriminator; return the losses [N]."""
        loss = generator_loss(self.discriminator(self.generator(self._noise(step, 1))))
        self.scale_g.backward(loss.mean())
        self.scale_g.unscale(self.optimizer_g.flat.grad)
        return loss

    def _zero_grad(self) -> None:
        self.optimizer_g.zero_grad()
        self.optimizer_d.zero_grad()

    def trial(self) -> None:
        """Compute both networks' gradients of step 0, then set them to zero. Synchronises."""
        self._discriminate(0)
        self._generate(0)
        backend.to_numpy(self.optimizer_g.squared_norm())  # copied to the host, to synchronise
        self._zero_grad()

    def row(self, records: list[Record]) -> dict[str, float]:
        """Average the records. Raises TrainingDivergedError if a value is not finite."""
        table = to_table([(*r.means, *r.squared_norms) for r in records])
        means, squared_norms = table[:, :-2], table[:, -2:]
        may_recover = self.scale_g.may_recover() and self.scale_d.may_recover()
        check_finite(means if may_recover else table, records[0].step, self)
        numbers = (*means.mean(axis=0).tolist(), *mean_norms(squared_norms), self.optimizer_g.lr)
        return dict(zip(self.columns, numbers, strict=True))

    def state(self) -> State:
        """Return weights, averages, moments, loss scales of both networks, and singular vectors."""
        return {
            **optimizer_state(self.generator, self.optimizer_g, self.ema, PREFIXES[0]),
            **optimizer_state(self.discriminator, self.optimizer_d, None, PREFIXES[1]),
            **self.scale_g.state(PREFIXES[0]),
            **self.scale_d.state(PREFIXES[1]),
            "singular": self.discriminator.singular,
        }

    def resumed(self) -> None:
        """Continue Adam's bias corrections at the resumed step."""
        self.optimizer_g.steps = self.optimizer_d.steps = self.step

    def export(self) -> None:
        """Write the generator with its averaged weights."""
        with self.ema.applied():
            save_model(self.generator, self.run.path / GENERATOR_FILE)
