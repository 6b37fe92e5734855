extern "C" __global__ void transpose(const float* x, float* y, int H, int W) {
    __shared__ float tile[32][33];
    int tx = threadIdx.x, ty = threadIdx.y;
    int r = blockIdx.y * 32 + ty, c = blockIdx.x * 32 + tx;
    if (r < H && c < W) tile[ty][tx] = x[r * W + c];
    __syncthreads();
    int row = blockIdx.x * 32 + ty, column = blockIdx.y * 32 + tx;
    if (row < W && column < H) y[row * H + column] = tile[tx][ty];
}
