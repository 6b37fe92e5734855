// A convolution and its two gradients as matrix products, for the rungs that tile them.
//
// A product is rows x depth times depth x columns. `a` and `b` say what stands where, reading the
// picture in place (no window is ever written out), and `store` where a result goes:
//
//                rows            depth               columns
//     forward    pixels of y     window, channels    K         y = windows of x  times  w
//     gradient_x pixels of x     window, K           C         gx = windows of gy  times  w turned
//     gradient_w window, C       pixels of y         K         gw = windows of x turned  times  gy
//
// Everything is channels last: x [N, H, W, C], w [KH, KW, C, K], y [N, OH, OW, K].

#define SIZES                                                                                    \
    int N, int H, int W, int C, int OH, int OW, int K, int KH, int KW, int stride, int top, int left
#define GIVEN {N, H, W, C, OH, OW, K, KH, KW, stride, top, left}

struct Sizes {
    int N, H, W, C, OH, OW, K, KH, KW, stride, top, left;
};

struct Forward {
    const float *x, *w, *bias;
    float* y;
    Sizes s;
    __device__ int rows() const { return s.N * s.OH * s.OW; }
    __device__ int depth() const { return s.KH * s.KW * s.C; }
    __device__ int columns() const { return s.K; }
    __device__ float a(int row, int d) const {
        int c = d % s.C, kw = d / s.C % s.KW, kh = d / s.C / s.KW;
        int ow = row % s.OW, oh = row / s.OW % s.OH, n = row / s.OW / s.OH;
        int h = oh * s.stride + kh - s.top, w = ow * s.stride + kw - s.left;
        bool inside = h >= 0 && h < s.H && w >= 0 && w < s.W;
        return inside ? x[(((long long)n * s.H + h) * s.W + w) * s.C + c] : 0.0f;
    }
    __device__ float b(int d, int k) const { return w[(long long)d * s.K + k]; }
    __device__ void store(int row, int k, float value) const {
        y[(long long)row * s.K + k] = value + (bias ? bias[k] : 0.0f);
    }
};

struct GradientX {
    const float *gy, *w;
    float* gx;
    Sizes s;
    __device__ int rows() const { return s.N * s.H * s.W; }
    __device__ int depth() const { return s.KH * s.KW * s.K; }
    __device__ int columns() const { return s.C; }
    __device__ float a(int row, int d) const {
        int k = d % s.K, kw = d / s.K % s.KW, kh = d / s.K / s.KW;
        int w = row % s.W, h = row / s.W % s.H, n = row / s.W / s.H;
        // y(oh) saw x(h) at kh where oh stride + kh - top = h
        int up = h + s.top - kh, left = w + s.left - kw;
        if (up < 0 || left < 0 || up % s.stride || left % s.stride) return 0.0f;
        int oh = up / s.stride, ow = left / s.stride;
        if (oh >= s.OH || ow >= s.OW) return 0.0f;
        return gy[(((long long)n * s.OH + oh) * s.OW + ow) * s.K + k];
    }
    __device__ float b(int d, int c) const {
        return w[((long long)(d / s.K) * s.C + c) * s.K + d % s.K];
    }
    __device__ void store(int row, int c, float value) const {
        gx[(long long)row * s.C + c] = value;
    }
};

struct GradientW {
    const float *gy, *x;
    float* gw;
    Sizes s;
    __device__ int rows() const { return s.KH * s.KW * s.C; }
    __device__ int depth() const { return s.N * s.OH * s.OW; }
    __device__ int columns() const { return s.K; }
    __device__ float a(int d, int pixel) const {
        return Forward{x, nullptr, nullptr, nullptr, s}.a(pixel, d);
    }
    __device__ float b(int pixel, int k) const { return gy[(long long)pixel * s.K + k]; }
    __device__ void store(int d, int k, float value) const { gw[(long long)d * s.K + k] = value; }
};
