"""Train a tiny model in all ranks: rank_program.py OUT CASE STEPS {options} [differ].

Rank 0 writes losses.npy, of every step and image, norms.npy, the squared norms of the gradients,
and the checkpoint. differ: rank 1 has other weights then. The variable MINDDPM_BACKEND chooses the
backend; the model of others than Numba is even smaller.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from builders import TINY, WIDE
from stepping import trainer

import minddpm
from minddpm import backend, parallel
from minddpm.training.run_directory import STATE


def main(out: Path, case: str, steps: int, options: dict, differ: bool) -> None:
    parallel.join()
    name = os.environ.get("MINDDPM_BACKEND", "numba")
    minddpm.set_backend(name)
    backend.set_threads(1)
    made = trainer(WIDE if name == "numba" else TINY, out, case, batch=8, **options)
    if made.world.rank == 0 and (out / STATE).exists():
        made.resume()
    made.share()
    records = [made.train_step() for _ in range(steps)]
    losses = [made.world.gather(backend.to_numpy(record.losses)) for record in records]
    if differ and made.world.rank == 1:
        made.optimizer.flat.data[0] += 1e-6
    if made.world.rank == 0:
        out.mkdir(exist_ok=True)
        np.save(out / "losses.npy", losses)
        np.save(out / "norms.npy", [float(record.squared_norm) for record in records])
    made.save()


if __name__ == "__main__":
    out, case, steps, options, *differ = sys.argv[1:]
    main(Path(out), case, int(steps), json.loads(options), differ == ["differ"])
