extern "C" __global__ void product(const float* a, const float* b, float* y, int M, int C, int K) {
    __shared__ float tile_a[16][16], tile_b[16][16];
    int tx = threadIdx.x, ty = threadIdx.y;
    int row = blockIdx.y * 16 + ty, column = blockIdx.x * 16 + tx;
    float sum = 0.0f;
    for (int start = 0; start < C; start += 16) {
        tile_a[ty][tx] = row < M && start + tx < C ? a[row * C + start + tx] : 0.0f;
        tile_b[ty][tx] = start + ty < C && column < K ? b[(start + ty) * K + column] : 0.0f;
        __syncthreads();  // the tiles are complete
        for (int d = 0; d < 16; d++) sum += tile_a[ty][d] * tile_b[d][tx];
        __syncthreads();  // all threads have read them
    }
    if (row < M && column < K) y[row * K + column] = sum;
}
