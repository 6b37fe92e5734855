// Muon: the momentum of each weight matrix, made orthogonal, is the step (kernels/reference/muon.py).
//
// With x [L, S], a matrix of which the longer side are the rows, all iterates of Newton and Schulz
// are x Q, where P and Q are polynomials of the gram matrix G = x^T x [S, S]. So the two long
// products are computed once, the short ones of symmetric matrices five times:
//
//     momentum, start     x = u / |u|
//     gram                G = x^T x
//     polynomial          P = A I + B G + C G G       five times
//     product             Q = Q P,  G = (G P) P       between these
//     step                param = keep param - step x Q
//
// kernels/cpu/muon.py explains why rounding does not matter. Each launch computes its part for all
// matrices, by the tile of rung 4: a matrix alone has too few tiles to fill a GPU. The grid fits the
// largest matrix, and a block beyond the tiles of its own does nothing.
#define TILE 64
#define COLUMNS 64
#include "block_sum.cuh"
#include "each.cuh"
#include "plain.cuh"
#include "product.cuh"

const int MATRICES = 128;  // of a launch, in muon.py, too: all arguments have at most 4 KB

struct Matrix {
    int start, rows, columns;  // in param, grad, momentum and average
    int x, square;             // where it begins in x, and in G, P and Q
    __device__ int length() const { return rows > columns ? rows : columns; }
    __device__ int width() const { return rows > columns ? columns : rows; }
    __device__ bool wide() const { return rows < columns; }  // x is its transpose
};

struct Matrices {
    Matrix matrix[MATRICES];
};

__device__ inline float number(const float* at, float value) { return at ? *at : value; }
__device__ inline double number(const double* at, double value) { return at ? *at : value; }
__device__ inline bool is_finite(float x) { return x - x == 0.0f; }

// u = beta momentum + (1 - beta) g for the updated momentum; g is the scaled gradient.
__device__ inline float nesterov(float momentum, float g, float beta) {
    return beta * momentum + (1.0f - beta) * g;
}

// Update the momentum. parts [matrices, gridDim.x]: each block's sum of u^2. If grad_scale is not
// finite, nothing is changed. grid (any, matrices), block (256)
extern "C" __global__ void __launch_bounds__(256)
muon_momentum(const float* grad, float* momentum, Matrices all, double* parts,
              const float* grad_scale_at, float grad_scale, float beta) {
    grad_scale = number(grad_scale_at, grad_scale);
    if (!is_finite(grad_scale)) return;
    const Matrix& m = all.matrix[blockIdx.y];
    grad += m.start, momentum += m.start;
    double sum = 0.0;
    for (EACH(i, m.rows * m.columns)) {
        float g = grad[i] * grad_scale, updated = nesterov(momentum[i], g, beta);
        momentum[i] = updated;
        double u = nesterov(updated, g, beta);
        sum += u * u;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[(long long)blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

// x = u / (|u| + eps), which has no singular value above 1; zeros if grad_scale is not finite.
// The grid of muon_momentum, whose sums each block adds up: in the same order, for the same bits.
extern "C" __global__ void __launch_bounds__(256)
muon_start(const float* grad, const float* momentum, Matrices all, const double* parts, float* x,
           const float* grad_scale_at, float grad_scale, float beta, float eps) {
    grad_scale = number(grad_scale_at, grad_scale);
    const Matrix& m = all.matrix[blockIdx.y];
    grad += m.start, momentum += m.start, x += m.x, parts += (long long)blockIdx.y * gridDim.x;
    bool finite = is_finite(grad_scale);
    double sum = 0.0;
    for (int i = threadIdx.x; finite && i < gridDim.x; i += 256) sum += parts[i];
    float factor = (float)(1.0 / (sqrt(block_sum(sum)) + eps));
    for (EACH(i, m.rows * m.columns)) {
        int row = (int)i / m.columns, column = (int)i % m.columns;
        int to = m.wide() ? column * m.rows + row : (int)i;
        x[to] = finite ? factor * nesterov(momentum[i], grad[i] * grad_scale, beta) : 0.0f;
    }
}

// A problem for the tile, unless this block is beyond the tiles of its matrix.
template <class P> __device__ inline void product_within(const P& p) {
    if (blockIdx.x * TILE < p.rows() && blockIdx.y * COLUMNS < p.columns()) product(p);
}

// The product of square matrices of this width.
__device__ inline Plain square(const float* left, const float* right, float* result, int width) {
    return {left, right, result, width, width, width, width % 4 == 0};
}

// G = x^T x. grid (ceil(width / TILE), ceil(width / COLUMNS), matrices) of the greatest width, block
// (THREADS)
extern "C" __global__ void __launch_bounds__(BOUNDS)
muon_gram(const float* x, float* gram, Matrices all) {
    const Matrix& m = all.matrix[blockIdx.z];
    int width = m.width();
    x += m.x;
    product_within(Turned{{x, x, gram + m.square, width, m.length(), width, width % 4 == 0}});
}

struct Polynomial : Plain {
    float a, b, c;
    template <class V> __device__ void store(int row, int column, V values) const {
        V of_gram = *(const V*)(left + ((long long)row * columns_ + column));
#pragma unroll
        for (int i = 0; i < FLOATS<V>; i++) {
            float& value = one_of(values, i);
            value = c * value + b * one_of(of_gram, i) + (row == column + i ? a : 0.0f);
        }
        Plain::store(row, column, values);
    }
};

// P = a I + b G + c G G. The grid of muon_gram.
extern "C" __global__ void __launch_bounds__(BOUNDS)
muon_polynomial(const float* gram, float* p, Matrices all, float a, float b, float c) {
    const Matrix& m = all.matrix[blockIdx.z];
    gram += m.square;
    product_within(Polynomial{square(gram, gram, p + m.square, m.width()), a, b, c});
}

// result = left right. The grid of muon_gram.
extern "C" __global__ void __launch_bounds__(BOUNDS)
muon_product(const float* left, const float* right, float* result, Matrices all) {
    const Matrix& m = all.matrix[blockIdx.z];
    product_within(square(left + m.square, right + m.square, result + m.square, m.width()));
}

struct Update : Plain {
    float *param, *average;
    int wide;
    float step, keep, rest;
    template <class V> __device__ void store(int row, int column, V values) const {
#pragma unroll
        for (int i = 0; i < FLOATS<V>; i++, column++) {
            int at = wide ? column * rows_ + row : row * columns_ + column;
            float p = keep * param[at] - step * one_of(values, i);
            param[at] = p;
            if (average) average[at] += rest * (p - average[at]);
        }
    }
};

// param = (1 - lr weight_decay) param - 0.2 lr sqrt(length) x Q, and the moving average of it, which
// may be null. If grad_scale is not finite, nothing is changed.
// grid (ceil(length / TILE), ceil(width / COLUMNS), matrices) of the greatest sizes
extern "C" __global__ void __launch_bounds__(BOUNDS)
muon_step(const float* x, const float* q, float* param, float* average, Matrices all,
          const float* grad_scale_at, float grad_scale, const double* lr_at, double lr,
          const double* ema_decay_at, double ema_decay, double weight_decay) {
    if (!is_finite(number(grad_scale_at, grad_scale))) return;
    __shared__ float step, keep, rest;  // computed in double precision, as in adam
    const Matrix& m = all.matrix[blockIdx.z];
    if (threadIdx.x == 0) {
        lr = number(lr_at, lr);
        step = (float)(0.2 * lr * sqrt((double)m.length()));
        keep = (float)(1.0 - lr * weight_decay);
        rest = (float)(1.0 - number(ema_decay_at, ema_decay));
    }
    __syncthreads();
    product_within(Update{{x + m.x, q + m.square, nullptr, m.length(), m.width(), m.width(),
                           m.width() % 4 == 0},
                          param + m.start, average ? average + m.start : nullptr, m.wide(), step,
                          keep, rest});
}
