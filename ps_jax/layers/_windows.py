"""The inputs that each kernel entry of a convolution meets."""

from jaxtyping import Array, Float


def shifted_windows(
    padded: Float[Array, "batch height width channel"],
    kernel_size: tuple[int, int],
    out_size: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> list[list[Float[Array, "batch out_height out_width channel"]]]:
    """Returns for kernel entry (i, j), at [i][j], the padded input it meets at every output position."""

    def positions(entry: int, axis: int) -> slice:
        start = entry * dilation[axis]
        return slice(start, start + (out_size[axis] - 1) * stride[axis] + 1, stride[axis])

    return [
        [padded[:, positions(i, 0), positions(j, 1)] for j in range(kernel_size[1])]
        for i in range(kernel_size[0])
    ]
