// Where the entries of a matrix are: the digits of its rows and depths.
#ifndef DIGITS
#define DIGITS

template <class T> struct Entry {
    const T* from;
    bool inside;  // else the entry is zero
};

// A number as three digits, so that a loop that adds a constant to it needs no division:
// number = (high * radix.mid + mid) * radix.low + low.
struct Radix {
    int low, mid;
};

struct Digits {
    int low, mid, high;

    __device__ Digits() {}
    __device__ Digits(int low, int mid, int high) : low(low), mid(mid), high(high) {}
    __device__ Digits(int number, Radix radix) {
        low = number % radix.low, number /= radix.low;
        mid = number % radix.mid, high = number / radix.mid;
    }
    // Add another number; a carry is at most 1, as in sums on paper.
    __device__ void add(const Digits& other, Radix radix) {
        low += other.low;
        int carry = low >= radix.low;
        low -= carry * radix.low, mid += other.mid + carry;
        carry = mid >= radix.mid;
        mid -= carry * radix.mid, high += other.high + carry;
    }
    __device__ void add_one(Radix radix) { add({1, 0, 0}, radix); }
};

struct TwoDigits {  // number = high * radix.low + low
    int low, high;

    __device__ TwoDigits() {}
    __device__ TwoDigits(int number, Radix radix)
        : low(number % radix.low), high(number / radix.low) {}
    __device__ void add(const TwoDigits& other, Radix radix) {
        low += other.low;
        int carry = low >= radix.low;
        low -= carry * radix.low, high += other.high + carry;
    }
    __device__ void add_one(Radix radix) {
        int carry = ++low >= radix.low;
        low -= carry * radix.low, high += carry;
    }
};

struct Number {  // a number that needs no digits
    int number;

    __device__ Number() {}
    __device__ Number(int number, Radix = {}) : number(number) {}
    __device__ void add(const Number& other, Radix) { number += other.number; }
    __device__ void add_one(Radix) { number++; }
};
#endif
