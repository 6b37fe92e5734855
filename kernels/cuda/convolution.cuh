// A convolution and its two gradients as matrix products, which the rungs tile.
//
// A product is rows x depth times depth x columns. `a` and `b` return the entries of the factors,
// reading the image in place (no window is ever written out), and `store` takes a result:
//
//                rows            depth               columns
//     forward    pixels of y     window, channels    K         y = windows of x  times  w
//     gradient_x pixels of x     window, K           C         gx = windows of gy  times  w turned
//     gradient_w window, C       pixels of y         K         gw = windows of x turned  times  gy
//
// Everything is channels last: x [N, H, W, C], w [KH, KW, C, K], y [N, OH, OW, K]; K is the number
// of output channels. A linear layer is a convolution with a 1 x 1 window.
//
// Operations that could be separate kernels happen where a number is read or written: x may be the
// concatenation of two parts (the first has C1 channels), or be upsampled to twice the height and
// width (up = 1: every pixel counts as four). A bias, a shift for each image, and an extra image
// are added to y.
//
// a4 and b4 fetch four numbers together if `vector` is 1: all sizes and addresses are multiples of
// four numbers. a is contiguous along the depth or along the rows; b along the columns or along
// the depth.
//
// A number of x has type Stored, four of them Stored4: float32, unless the including file defines
// STORED and both types. A is the return type of a4.
#ifndef STORED
typedef float Stored;
typedef float4 Stored4;
#endif

#define SIZES                                                                                     \
    int N, int H, int W, int C, int OH, int OW, int K, int KH, int KW, int stride, int top,       \
        int left, int vector
#define GIVEN {N, H, W, C, OH, OW, K, KH, KW, stride, top, left, vector}

struct Sizes {
    int N, H, W, C, OH, OW, K, KH, KW, stride, top, left, vector;
};

template <class Vector, class Number> __device__ inline Vector at4(const Number* x, bool inside) {
    return inside ? *(const Vector*)x : Vector{};
}

struct Image {
    const Stored *x1, *x2;
    int C1, up;

    // Address of channel c of pixel (n, h, w); h and w count upsampled pixels.
    __device__ const Stored* place(const Sizes& s, int n, int h, int w, int c) const {
        long long pixel = ((long long)n * (s.H >> up) + (h >> up)) * (s.W >> up) + (w >> up);
        return c < C1 ? x1 + pixel * C1 + c : x2 + pixel * (s.C - C1) + (c - C1);
    }
};

struct Forward {
    typedef Stored4 A;
    Image x;
    const float *w, *bias, *shift, *extra;
    float* y;
    Sizes s;
    static constexpr bool a_along_depth = true, b_along_columns = true;

    __device__ bool vector() const { return s.vector; }
    __device__ int rows() const { return s.N * s.OH * s.OW; }
    __device__ int depth() const { return s.KH * s.KW * s.C; }
    __device__ int columns() const { return s.K; }
    // Address of number d of the window over pixel `row` of y; null outside the image.
    __device__ const Stored* window(int row, int d) const {
        int c = d % s.C, kw = d / s.C % s.KW, kh = d / s.C / s.KW;
        int ow = row % s.OW, oh = row / s.OW % s.OH, n = row / s.OW / s.OH;
        int h = oh * s.stride + kh - s.top, w = ow * s.stride + kw - s.left;
        bool inside = h >= 0 && h < s.H && w >= 0 && w < s.W;
        return inside ? x.place(s, n, h, w, c) : nullptr;
    }
    __device__ float a(int row, int d) const {
        const Stored* from = window(row, d);
        return from ? float(*from) : 0.0f;
    }
    __device__ float b(int d, int k) const { return w[(long long)d * s.K + k]; }
    __device__ A a4(int row, int d) const {
        const Stored* from = window(row, d);
        return at4<A>(from, from);
    }
    __device__ float4 b4(int d, int k) const {
        return at4<float4>(w + (long long)d * s.K + k, true);
    }
    __device__ void store(int row, int k, float value) const {
        if (bias) value += bias[k];
        if (shift) value += shift[(long long)(row / (s.OH * s.OW)) * s.K + k];
        long long at = (long long)row * s.K + k;
        y[at] = extra ? value + extra[at] : value;
    }
};

// gx has the two parts of x. Their partial gradients partial1 and partial2, and a bias, are added to
// it unless null; with a bias it is the result of a transposed convolution. With up, a pixel of x
// represents four pixels, each with its own window.
struct GradientX {
    typedef float4 A;
    const float *gy, *w, *partial1, *partial2;
    float *gx1, *gx2;
    int C1, up;
    Sizes s;
    const float* bias = nullptr;
    static constexpr bool a_along_depth = true, b_along_columns = false;

    __device__ bool vector() const { return s.vector; }
    __device__ int rows() const { return s.N * (s.H >> up) * (s.W >> up); }
    __device__ int depth() const { return (s.KH * s.KW * s.K) << (2 * up); }
    __device__ int columns() const { return s.C; }
    __device__ const float* window(int row, int d) const {
        int k = d % s.K, kw = d / s.K % s.KW, kh = d / s.K / s.KW % s.KH;
        int W = s.W >> up, H = s.H >> up, of_four = d / s.K / s.KW / s.KH;
        int w = ((row % W) << up) + (of_four & 1), h = ((row / W % H) << up) + (of_four >> 1);
        int n = row / W / H;
        // y(oh) read x(h) at kh where oh stride + kh - top = h
        int up = h + s.top - kh, left = w + s.left - kw;
        if (up < 0 || left < 0 || up % s.stride || left % s.stride) return nullptr;
        int oh = up / s.stride, ow = left / s.stride;
        if (oh >= s.OH || ow >= s.OW) return nullptr;
        return gy + (((long long)n * s.OH + oh) * s.OW + ow) * s.K + k;
    }
    __device__ float a(int row, int d) const {
        const float* from = window(row, d);
        return from ? *from : 0.0f;
    }
    __device__ const float* weight(int d, int c) const {
        int tap = d / s.K % (s.KH * s.KW);
        return w + ((long long)tap * s.C + c) * s.K + d % s.K;
    }
    __device__ float b(int d, int c) const { return *weight(d, c); }
    __device__ A a4(int row, int d) const {
        const float* from = window(row, d);
        return at4<A>(from, from);
    }
    __device__ float4 b4(int d, int c) const { return at4<float4>(weight(d, c), true); }
    __device__ void store(int row, int c, float value) const {
        if (bias) value += bias[c];
        bool first = c < C1;
        long long at = first ? (long long)row * C1 + c : (long long)row * (s.C - C1) + (c - C1);
        const float* partial = first ? partial1 : partial2;
        (first ? gx1 : gx2)[at] = partial ? value + partial[at] : value;
    }
};

struct GradientW {
    typedef Stored4 A;
    const float* gy;
    Image x;
    float* gw;
    Sizes s;
    static constexpr bool a_along_depth = false, b_along_columns = true;

    __device__ bool vector() const { return s.vector; }
    __device__ int rows() const { return s.KH * s.KW * s.C; }
    __device__ int depth() const { return s.N * s.OH * s.OW; }
    __device__ int columns() const { return s.K; }
    __device__ Forward forward() const {
        return {x, nullptr, nullptr, nullptr, nullptr, nullptr, s};
    }
    __device__ float a(int d, int pixel) const { return forward().a(pixel, d); }
    __device__ float b(int pixel, int k) const { return gy[(long long)pixel * s.K + k]; }
    __device__ A a4(int d, int pixel) const { return forward().a4(pixel, d); }
    __device__ float4 b4(int pixel, int k) const {
        return at4<float4>(gy + (long long)pixel * s.K + k, true);
    }
    __device__ void store(int d, int k, float value) const { gw[(long long)d * s.K + k] = value; }
};
