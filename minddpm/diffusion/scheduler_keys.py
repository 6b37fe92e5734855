"""Every key of diffusers' schedulers (0.42), with what minddpm does about it.

READ    scheduler_file.py reads the key and honours it, or refuses it where it cannot
UNUSED  the key has no effect on what minddpm computes
else    the values that minddpm supports, the default first; any other is refused by the key's name

A scheduler ignores the keys of other schedulers, and so do we. A key of none is refused.
"""

import reprlib
from typing import Any

from minddpm.errors import InputError

READ, UNUSED = ("read",), ("unused",)

PROCESS = {
    "num_train_timesteps": READ, "beta_start": READ, "beta_end": READ, "trained_betas": READ,
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
}  # fmt: skip
SPACED = {"timestep_spacing": ("leading", "trailing", "linspace"), "steps_offset": READ}
LINSPACED = {"timestep_spacing": ("linspace", "leading", "trailing"), "steps_offset": READ}
RESCALED = {"rescale_betas_zero_snr": (False, True)}
THRESHOLD = {
    "thresholding": (False, True), "dynamic_thresholding_ratio": READ, "sample_max_value": READ,
}  # fmt: skip
CLIPPED = {"clip_sample": (True, False), "clip_sample_range": READ, **THRESHOLD}
SIGMAS = {
    "use_karras_sigmas": (False, None), "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None), "final_sigmas_type": ("zero",),
}  # fmt: skip
DPM_SOLVER = {
    **PROCESS, **THRESHOLD, **SIGMAS,
    "solver_order": (2, 1), "solver_type": ("midpoint",), "lambda_min_clipped": (float("-inf"),),
    "variance_type": (None, "learned_range"),
    # The last step is of first order anyway where it goes to sigma = 0.
    "lower_order_final": UNUSED,
    "use_flow_sigmas": (False,), "use_dynamic_shifting": (False,),
    "flow_shift": UNUSED, "time_shift_type": UNUSED,  # they belong to the two above
}  # fmt: skip
NOT_SAMPLE = {"prediction_type": ("epsilon", "v_prediction")}

KEYS: dict[str, dict[str, tuple[Any, ...]]] = {
    "DDPMScheduler": {
        **PROCESS, **SPACED, **RESCALED, **CLIPPED,
        "variance_type": (
            "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range",
        ),
    },
    "DDIMScheduler": {
        **PROCESS, **SPACED, **RESCALED, **CLIPPED, "set_alpha_to_one": (True, False),
        "_sampling_steps": READ,  # ours: of a distilled model
    },
    "LCMScheduler": {  # read only as minddpm writes it, for a consistency model
        **PROCESS, **RESCALED, **CLIPPED, "timestep_spacing": UNUSED, "steps_offset": UNUSED,
        "set_alpha_to_one": UNUSED, "original_inference_steps": READ, "timestep_scaling": READ,
        "_sampling_steps": READ,
    },
    "DPMSolverMultistepScheduler": {
        **DPM_SOLVER, **LINSPACED, **RESCALED, "use_lu_lambdas": (False, None),
        "euler_at_final": UNUSED,  # as lower_order_final
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    },
    "DPMSolverSinglestepScheduler": {**DPM_SOLVER, "algorithm_type": ("dpmsolver++",)},
    "EulerDiscreteScheduler": {
        **PROCESS, **LINSPACED, **RESCALED, **SIGMAS, **NOT_SAMPLE,
        "interpolation_type": ("linear",), "timestep_type": ("discrete",),
        "sigma_min": UNUSED, "sigma_max": UNUSED,  # only the use_..._sigmas read them
    },
    "EulerAncestralDiscreteScheduler": {**PROCESS, **LINSPACED, **RESCALED, **NOT_SAMPLE},
    # Its weights are those for steps of equal length, which the other spacings do not have.
    "PNDMScheduler": {
        **PROCESS, **NOT_SAMPLE, "skip_prk_steps": (False, True),
        "set_alpha_to_one": (False, True), "timestep_spacing": ("leading",), "steps_offset": READ,
    },
}  # fmt: skip
# Keys of early releases, which nothing reads any more.
EARLY = {"tensor_format": UNUSED, "timestep_values": UNUSED, "predict_epsilon": (True,)}
KNOWN = set(EARLY).union(*KEYS.values())


def complete_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a scheduler's configuration with the defaults of what is not READ filled in.

    Raises InputError for an unknown scheduler or key, and an unsupported value.
    """
    kind = config.get("_class_name", "DDPMScheduler")
    check_choice("_class_name", kind, tuple(KEYS))
    keys = {**KEYS[kind], **EARLY}
    for key, value in config.items():
        if key not in KNOWN and not key.startswith("_") and value is not None:
            raise InputError(
                f"{reprlib.repr(key)} is no key of diffusers' schedulers that minddpm knows: "
                "remove it if it does not matter."
            )
    complete = {"_class_name": kind}
    for key, choices in keys.items():
        if choices in (READ, UNUSED):
            complete |= {key: config[key]} if key in config else {}
        else:
            complete[key] = config.get(key, choices[0])
            check_choice(key, complete[key], choices)
    return complete


def check_choice(key: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise InputError unless value is one of the choices, of the same type."""
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise InputError(
            f"{key}={reprlib.repr(value)} is not supported: choose "
            f"{' or '.join(map(repr, choices))}."
        )
