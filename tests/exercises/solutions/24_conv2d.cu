extern "C" __global__ void conv2d(const float* x, const float* w, float* y, int N, int H, int W,
                                  int C, int K) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, groups = (W + 3) / 4;
    int k = 4 * (i % (K / 4));
    i /= K / 4;
    int j = 4 * (i % groups);
    i /= groups;
    int row = i % H, n = i / H;
    if (n >= N) return;
    float sums[4][4] = {};
    for (int kh = 0; kh < 3; kh++) {
        int r = row + kh - 1;
        if (r < 0 || r >= H) continue;
        for (int kw = 0; kw < 3; kw++) {
            for (int c = 0; c < C; c++) {
                float xs[4], ws[4];
                for (int p = 0; p < 4; p++) {
                    int s = j + p + kw - 1;
                    xs[p] = s >= 0 && s < W ? x[((n * H + r) * W + s) * C + c] : 0.0f;
                }
                for (int q = 0; q < 4; q++) ws[q] = w[((kh * 3 + kw) * C + c) * K + k + q];
                for (int p = 0; p < 4; p++) {
                    for (int q = 0; q < 4; q++) sums[p][q] += xs[p] * ws[q];
                }
            }
        }
    }
    for (int p = 0; p < 4 && j + p < W; p++) {
        for (int q = 0; q < 4; q++) y[((n * H + row) * W + j + p) * K + k + q] = sums[p][q];
    }
}
