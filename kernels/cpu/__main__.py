"""python -m minddpm.kernels.cpu: which rung computes which convolution."""

from minddpm.kernels.cpu.ladder.choose import CHOICES, chosen
from minddpm.kernels.cpu.vector.instructions import ROWS, W
from minddpm.kernels.shapes import SAME

NONE = ((0, 0), (0, 0))
# What a UNet consists of: name, images, their size, window, channels in and out, stride, padding.
SHAPES = (
    ("first convolution", 64, 28, 3, 1, 32, 1, SAME),
    ("residual block", 64, 28, 3, 32, 32, 1, SAME),
    ("residual block, joined", 64, 14, 3, 128, 64, 1, SAME),
    ("the same of one image", 1, 14, 3, 128, 64, 1, SAME),
    ("shortcut", 64, 14, 1, 128, 64, 1, NONE),
    ("downsampling", 64, 28, 3, 32, 32, 2, SAME),
    ("upsampling", 64, 28, 3, 64, 64, 1, SAME),
    ("last convolution", 64, 28, 3, 32, 1, 1, SAME),
)


def main() -> None:
    print(f"vectors of {W} floats, register tile of {ROWS} rows x 2 vectors\n")
    print("the first line that fits is taken:")
    for choice in CHOICES:
        print(f"  {choice.where:80} {choice.rung}")
    print("\nso that in the UNet:")
    for name, N, size, window, C, K, stride, padding in SHAPES:
        x_shape, w_shape = (N, size, size, C), (window, window, C, K)
        rung = chosen(x_shape, w_shape, stride, padding)
        sizes = f"{N:2} x {size}x{size}, {window}x{window} {C:3} -> {K:3}, stride {stride}"
        print(f"  {name:24} {sizes:53} {rung}")
    print(
        "\nin residual blocks and upsampling rung 6 folds norm, SiLU, joining, doubling, bias and\n"
        "residual into rung 4 or 5 where all channels are multiples of "
        f"{2 * W}."
    )


if __name__ == "__main__":
    main()
