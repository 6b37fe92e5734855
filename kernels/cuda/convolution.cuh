// A convolution and its two gradients as matrix products, which the rungs tile.
//
// A product is rows x depth times depth x columns. a and b are the factors, whose entries are read
// from the images in place (no window is ever written out), and `store` takes a result:
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
// width (UP = 1: every pixel counts as four). A bias, a shift for each image, and an extra image
// are added to y. UP and STRIDE are known to the compiler.
//
// 16 bytes can be fetched together if all sizes and addresses are multiples of as many numbers;
// `vector` is 1 if they are multiples of four. a is contiguous along the depth or along the rows; b
// along the columns or along the depth. Rung 4 stores results together even where `vector` is 0, if
// their columns and the addresses of what store() accesses allow it: y may have 32 channels where x
// has one.
//
// Where a number is in memory follows from its row and depth by divisions. A loop over the depth
// divides only once, before it begins: a_row, a_depth and b_depth return the digits of a number
// (digits.cuh), to which the loop then adds. a_at and b_at return where an entry is; it is zero
// outside the image, or in a row beyond the last one.
//
// Indices are int: no array has more elements (launch.py).
//
// A number of x has type T, usually Stored: float32, unless the including file defines STORED and the
// type. A is the type of a number of a.
#ifndef STORED
typedef float Stored;
#endif

#ifndef STRIDE
#define STRIDE 1
#endif
#ifndef UP
#define UP 0
#endif
#include "digits.cuh"
#include "ptx.cuh"
#include "vector.cuh"

#define SIZES                                                                                     \
    int N, int H, int W, int C, int OH, int OW, int K, int KH, int KW, int stride, int top,       \
        int left, int vector
#define GIVEN {N, H, W, C, OH, OW, K, KH, KW, stride, top, left, vector}

struct Sizes {
    int N, H, W, C, OH, OW, K, KH, KW, stride, top, left, vector;
};

// Return from + steps * length. Summed like this, what threads add to one `from` for different
// steps takes a single instruction.
template <class T> __device__ const T* jump(const T* from, int steps, int length) {
    return (const T*)((const char*)from + wide_product(steps, length * (int)sizeof(T)));
}

template <class T> struct ImageOf {
    const T *x1, *x2;
    int C1;

    __device__ bool vector(const Sizes& s) const {
        const int numbers = 16 / sizeof(T);
        return s.vector && s.C % numbers == 0 && C1 % numbers == 0;
    }
    // Return where channel c of the pixel is that comes `tap` pixels after `pixel`.
    __device__ const T* place(const Sizes& s, int pixel, int tap, int c) const {
        bool first = c < C1;
        int channels = first ? C1 : s.C - C1, channel = first ? c : c - C1;
        return jump((first ? x1 : x2) + (tap * channels + channel), pixel, channels);
    }
};

// The place where a window begins: h and w count (upsampled) pixels. If these are the pixels in
// memory, `pixel` is the number of this one; else the number of its image's first.
struct Corner {
    int h, w, pixel;
};
#define BEYOND (1 << 29)  // h of a row beyond the last one: outside every image

// Return n / STRIDE, or a number outside every image if n is negative or no multiple. For 2, odd
// numbers get the highest bit: one instruction, and one comparison finds all that are outside.
__device__ inline unsigned by_stride(unsigned n) {
#if STRIDE == 2
    return n >> 1 | n << 31;
#else
    return n % STRIDE == 0 ? n / STRIDE : BEYOND;
#endif
}

template <class T> struct ForwardOf {
    typedef T A;
    typedef Corner Row;     // the window of a pixel of y
    typedef Digits DepthA;  // kh, kw, c
    typedef Number DepthB;
    ImageOf<T> x;
    const float *w, *bias, *shift, *extra;
    float* y;
    Sizes s;
    static constexpr bool a_along_depth = true, b_along_columns = true;

    __device__ bool vector() const { return x.vector(s); }
    __device__ bool stores_vectors() const {
        return s.K % 4 == 0 && aligned(bias, shift, extra, y);
    }
    __device__ int rows() const { return s.N * s.OH * s.OW; }
    __device__ int depth() const { return s.KH * s.KW * s.C; }
    __device__ int columns() const { return s.K; }
    __device__ Radix radix() const { return {s.C, s.KW}; }

    __device__ Row corner(const Digits& pixel) const {  // n, oh, ow
        int h = pixel.mid * STRIDE - s.top, w = pixel.low * STRIDE - s.left, n = pixel.high;
        return {h, w, UP ? n * (s.H / 2) * (s.W / 2) : (n * s.H + h) * s.W + w};
    }
    __device__ Row a_row(int row) const {
        Row found = corner(Digits(row, {s.OW, s.OH}));
        if (row >= rows()) found.h = BEYOND;
        return found;
    }
    __device__ DepthA a_depth(int d) const { return Digits(d, radix()); }
    __device__ DepthB b_depth(int d) const { return {d}; }
    __device__ Radix a_radix() const { return radix(); }
    __device__ Radix b_radix() const { return {}; }
    __device__ Entry<T> window(const Row& row, const Digits& d) const {
        int h = row.h + d.high, w = row.w + d.mid;
        bool inside = (unsigned)h < (unsigned)s.H && (unsigned)w < (unsigned)s.W;
        int pixel = row.pixel + (UP ? h / 2 * (s.W / 2) + w / 2 : 0);
        return {x.place(s, pixel, UP ? 0 : d.high * s.W + d.mid, d.low), inside};
    }
    __device__ Entry<T> a_at(const Row& row, const DepthA& d) const { return window(row, d); }
    __device__ Entry<float> b_at(const DepthB& d, int k) const {
        return {w + (d.number * s.K + k), k < s.K};
    }
    template <class V> __device__ void store(int row, int k, V values) const {
        if (bias) add(values, bias + k);
        if (shift) add(values, shift + ((long long)(row / (s.OH * s.OW)) * s.K + k));
        long long at = (long long)row * s.K + k;
        if (extra) add(values, extra + at);
        *(V*)(y + at) = values;
    }
};
typedef ForwardOf<Stored> Forward;

// gx has the two parts of x. Their partial gradients partial1 and partial2, and a bias, are added to
// it unless null; with a bias it is the result of a transposed convolution. With UP, a pixel of x
// represents four pixels, each with its own window.
struct GradientX {
    typedef float A;
    typedef Corner Row;        // a pixel of x
    typedef Digits DepthA;     // kh; kw and which of four pixels; k
    typedef TwoDigits DepthB;  // kh, kw and which of four pixels; k
    const float *gy, *w, *partial1, *partial2;
    float *gx1, *gx2;
    int C1;
    Sizes s;
    const float* bias = nullptr;
    static constexpr bool a_along_depth = true, b_along_columns = false;
    static constexpr bool SHIFTED = !UP && STRIDE == 1;  // a window of gy is x's, shifted

    __device__ bool vector() const { return s.vector; }
    __device__ bool stores_vectors() const {
        return s.C % 4 == 0 && C1 % 4 == 0 && aligned(bias, partial1, partial2, gx1, gx2);
    }
    __device__ int rows() const { return s.N * (s.H >> UP) * (s.W >> UP); }
    __device__ int depth() const { return (s.KH * s.KW * s.K) << (2 * UP); }
    __device__ int columns() const { return s.C; }
    __device__ Radix radix() const { return {s.K, s.KW << (2 * UP)}; }

    __device__ Row a_row(int row) const {
        Digits at(row, {s.W >> UP, s.H >> UP});
        int h = (at.mid << UP) + s.top, w = (at.low << UP) + s.left, first = at.high * s.OH * s.OW;
        return {row < rows() ? h : BEYOND, w, SHIFTED ? first + h * s.OW + w : first};
    }
    __device__ DepthA a_depth(int d) const { return Digits(d, radix()); }
    __device__ DepthB b_depth(int d) const { return {d, radix()}; }
    __device__ Radix a_radix() const { return radix(); }
    __device__ Radix b_radix() const { return radix(); }
    __device__ Entry<float> a_at(const Row& row, const DepthA& d) const {
        int of_four = UP ? d.mid % 4 : 0, kh = d.high, kw = d.mid >> (2 * UP);
        // y(oh) read x(h) at kh where oh stride + kh - top = h
        unsigned oh = by_stride(row.h + of_four / 2 - kh);
        unsigned ow = by_stride(row.w + of_four % 2 - kw);
        bool inside = oh < (unsigned)s.OH && ow < (unsigned)s.OW;
        int tap = SHIFTED ? -kh * s.OW - kw : 0;
        int pixel = row.pixel + (SHIFTED ? 0 : oh * s.OW + ow);
        return {jump(gy + (tap * s.K + d.low), pixel, s.K), inside};
    }
    __device__ Entry<float> b_at(const DepthB& d, int c) const {
        int tap = d.high >> (2 * UP);
        return {jump(w + (tap * s.C * s.K + d.low), c, s.K), c < s.C};
    }
    template <class V> __device__ void store(int row, int c, V values) const {
        if (bias) add(values, bias + c);
        bool first = c < C1;
        long long at = first ? (long long)row * C1 + c : (long long)row * (s.C - C1) + (c - C1);
        const float* partial = first ? partial1 : partial2;
        if (partial) add(values, partial + at);
        *(V*)((first ? gx1 : gx2) + at) = values;
    }
};

template <class T> struct GradientWOf {
    typedef T A;
    typedef Digits Row;     // kh, kw, c
    typedef Digits DepthA;  // n, oh, ow
    typedef Number DepthB;
    const float* gy;
    ImageOf<T> x;
    float* gw;
    Sizes s;
    static constexpr bool a_along_depth = false, b_along_columns = true;

    __device__ bool vector() const { return x.vector(s); }
    __device__ bool stores_vectors() const { return s.K % 4 == 0 && aligned(gw); }
    __device__ int rows() const { return s.KH * s.KW * s.C; }
    __device__ int depth() const { return s.N * s.OH * s.OW; }
    __device__ int columns() const { return s.K; }
    __device__ ForwardOf<T> forward() const {
        return {x, nullptr, nullptr, nullptr, nullptr, nullptr, s};
    }
    __device__ Row a_row(int row) const {
        Digits found(row, {s.C, s.KW});
        if (row >= rows()) found.high = BEYOND;
        return found;
    }
    __device__ DepthA a_depth(int pixel) const { return Digits(pixel, a_radix()); }
    __device__ DepthB b_depth(int pixel) const { return {pixel}; }
    __device__ Radix a_radix() const { return {s.OW, s.OH}; }
    __device__ Radix b_radix() const { return {}; }
    __device__ Entry<T> a_at(const Row& d, const DepthA& pixel) const {
        return forward().window(forward().corner(pixel), d);
    }
    __device__ Entry<float> b_at(const DepthB& pixel, int k) const {
        return {gy + (pixel.number * s.K + k), k < s.K};
    }
    template <class V> __device__ void store(int d, int k, V values) const {
        *(V*)(gw + ((long long)d * s.K + k)) = values;
    }
};
typedef GradientWOf<Stored> GradientW;

// A single number of a problem P, for the rungs that take one at a time.
template <class P> __device__ inline float a(const P& p, int row, int d) {
    auto entry = p.a_at(p.a_row(row), p.a_depth(d));
    return entry.inside ? float(*entry.from) : 0.0f;
}
template <class P> __device__ inline float b(const P& p, int d, int column) {
    return *p.b_at(p.b_depth(d), column).from;
}
