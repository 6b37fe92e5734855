// An access to shared memory or to an array of the device, and who wants to hear of it.
#pragma once

#include "machine.h"

namespace emulator {

struct Access {
    Kind kind;
    bool shared;
    int array;  // which one of shared_arrays, or of the device's; -1 if none
    const char* at;
    ptrdiff_t offset;  // in the array
    size_t bytes;
    uint32_t place;  // of the instruction, in the library
};

struct DeviceArray {  // as memory.py describes it
    const char *before, *start, *end, *after;  // nothing else lies between before and after
    uint64_t poison;   // the words that nobody wrote, by their address modulo 8
    int64_t argument;  // of the launch; -1 if it was not passed
    int64_t table;     // which argument has its address in it; -1 if none
};
extern std::vector<DeviceArray> device_arrays;  // by address

std::string name_of(const Access& access);
// "@place@: thread of block reads 4 bytes at 8 of argument 0"
std::string describe(const Access& access);

// Hears every access of a kernel, leaves out what is of no interest (the thread's own variables,
// the machine), and fails at what no kernel may do.
struct Listener : Watcher {
    void access(Kind kind, const void* at, size_t bytes, bool natural, uint32_t place) override;
    virtual void accessed(const Access& access) = 0;
};

}  // namespace emulator
