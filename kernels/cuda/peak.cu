// What a card's multipliers reach at most: a loop of nothing but FFMA, for gpucheck.

// y [blocks * threads]: the sum of the thread's 16 numbers, each of which becomes factor x + term in
// every round. 16 of them hide the latency of one. They start at 1 plus multiples of step: the
// compiler does not know that step is 0, and that one number of one thread would do.
extern "C" __global__ void __launch_bounds__(256)
multiply_add(float* y, float factor, float term, float step, int rounds) {
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; i++) x[i] = 1.0f + (16 * threadIdx.x + i) * step;
    for (int r = 0; r < rounds; r++) {
#pragma unroll
        for (int i = 0; i < 16; i++) x[i] = factor * x[i] + term;
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) sum += x[i];
    y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
