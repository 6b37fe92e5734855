"""python -m minddpm.kernels.cpu: prints which rung computes which convolution."""

from minddpm.kernels.cpu.ladder.choose import CHOICES, chosen
from minddpm.kernels.cpu.vector.instructions import LANES, ROWS
from minddpm.kernels.shapes import SAME

NONE = ((0, 0), (0, 0))
# The UNet's convolutions: name, images, image size, kernel size, channels in, out, stride, padding.
SHAPES = (
    ("first convolution", 64, 28, 3, 1, 32, 1, SAME),
    ("residual block", 64, 28, 3, 32, 32, 1, SAME),
    ("residual block, two parts", 64, 14, 3, 128, 64, 1, SAME),
    ("the same, one image", 1, 14, 3, 128, 64, 1, SAME),
    ("shortcut", 64, 14, 1, 128, 64, 1, NONE),
    ("downsampling", 64, 28, 3, 32, 32, 2, SAME),
    ("upsampling", 64, 28, 3, 64, 64, 1, SAME),
    ("last convolution", 64, 28, 3, 32, 1, 1, SAME),
)


def main() -> None:
    print(f"vectors of {LANES} floats, register tile of {ROWS} rows x 2 vectors\n")
    print("the first line that fits is chosen:")
    for choice in CHOICES:
        print(f"  {choice.condition:88} {choice.rung}")
    print("\nin the UNet:")
    for name, N, size, kernel_size, C, C_out, stride, padding in SHAPES:
        x_shape, w_shape = (N, size, size, C), (kernel_size, kernel_size, C, C_out)
        rung = chosen(x_shape, w_shape, stride, padding)
        window = f"{kernel_size}x{kernel_size}"
        sizes = f"{N:2} x {size}x{size}, {window} {C:3} -> {C_out:3}, stride {stride}"
        print(f"  {name:26} {sizes:53} {rung}")
    print(
        "\nin residual blocks and upsampling, rung 6 fuses norm, SiLU, concatenation, upsampling,\n"
        "bias and residual into rung 4 or 5 if all channels are multiples of "
        f"{2 * LANES}."
    )


if __name__ == "__main__":
    main()
