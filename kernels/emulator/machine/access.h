// An access to shared memory or to a device array, and the base class of its watchers.
#pragma once

#include "machine.h"

namespace emulator {

struct Access {
    Kind kind;
    bool shared;
    int array;  // index into shared_arrays or device_arrays; -1 if none
    const char* at;
    ptrdiff_t offset;  // in bytes from the start of the array
    size_t bytes;
    uint32_t place;  // offset of the instruction in the library
};

struct DeviceArray {  // from an Extent of memory.py
    const char *before, *start, *end, *after;  // nothing else lies between before and after
    uint64_t poison;   // the 8 bytes that fill unwritten memory, at addresses divisible by 8
    int64_t argument;  // its number among the launch's arguments; -1 if it was not passed
    int64_t table;     // number of the argument that contains its address; -1 if none
};
extern std::vector<DeviceArray> device_arrays;  // sorted by address

std::string name_of(const Access& access);
// "@place@: thread of block reads 4 bytes at 8 of argument 0"
std::string describe(const Access& access);

// Receives every access of a kernel, skips those to the emulator's own variables, fails at accesses
// that no kernel may make, and passes the rest to `accessed`.
struct AccessWatcher : Watcher {
    void access(Kind kind, const void* at, size_t bytes, bool aligned, uint32_t place) override;
    virtual void accessed(const Access& access) = 0;
};

}  // namespace emulator
