// Every memory access of a kernel: which array it touches, and whether it is allowed.
//
// g++ -fsanitize=thread inserts a function call before each memory access that it compiles. The
// functions normally belong to a library that finds races between CPU threads. This file defines
// them for CUDA threads instead. The code is compiled without optimisation, so that each access in
// the source is one call with its own size: a float4 is one access of 16 bytes.

#include "access.h"

#include <algorithm>
#include <cstdio>

namespace emulator {

std::vector<DeviceArray> device_arrays;

namespace {

// The linker's names for the first and last address of the library.
extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start[], _end[];

// The emulator's own variables, such as threadIdx and exchanged values, and constants.
bool is_machine_memory(const char* at) {
    const char* first = reinterpret_cast<const char*>(fibers.data());
    return (__ehdr_start <= at && at < _end) || size_t(at - first) < fibers.size() * sizeof(Fiber);
}

// The index of the device array at this address, or of the nearest one; -1 if none is near.
int device_array(const char* at) {
    static size_t last;  // most accesses go to the same array as the one before
    auto around = [at](const DeviceArray& a) { return a.before <= at && at < a.after; };
    if (last < device_arrays.size() && around(device_arrays[last])) return int(last);
    auto behind = [](const char* p, const DeviceArray& a) { return p < a.after; };
    auto found = std::upper_bound(device_arrays.begin(), device_arrays.end(), at, behind);
    if (found == device_arrays.end() || !around(*found)) return -1;
    last = found - device_arrays.begin();
    return int(last);
}

// The index of the shared array at this address, otherwise of the last one that begins before it.
int shared_array_at(const char* at) {
    int nearest = 0;
    for (size_t i = 0; i < shared_arrays.size(); i++) {
        const Shared& s = shared_arrays[i];
        if (size_t(at - (arena + s.start)) < s.bytes) return int(i);
        if (arena + s.start <= at) nearest = int(i);
    }
    return nearest;
}

[[noreturn]] void forbid(const char* what, const Access& access, const std::string& why) {
    fail("%s: %s%s", what, describe(access).c_str(), why.c_str());
    for (;;) suspend(me());
}

}  // namespace

std::string name_of(const Access& access) {
    if (access.shared) return shared_arrays[access.array].name;
    if (access.array < 0) {
        return on_a_stack(access.at) ? "a thread's local variable" : "no array";
    }
    const DeviceArray& array = device_arrays[access.array];
    if (array.argument >= 0) return "argument " + std::to_string(array.argument);
    if (array.table >= 0) return "an array named in argument " + std::to_string(array.table);
    return "an array that was not passed";
}

std::string describe(const Access& access) {
    static const char* const words[] = {"reads", "writes", "changes"};
    char text[300], where[30] = "";
    if (access.array >= 0) snprintf(where, sizeof where, " at %td", access.offset);
    snprintf(text, sizeof text, "@%x@: %s %s %zu byte%s%s of %s", access.place,
             position(*current).c_str(), words[access.kind], access.bytes,
             access.bytes == 1 ? "" : "s", where, name_of(access).c_str());
    return text;
}

void AccessWatcher::access(Kind kind, const void* address, size_t bytes, bool aligned,
                           uint32_t place) {
    const char* at = static_cast<const char*>(address);
    Access access = {kind, false, 0, at, 0, bytes, place};
    size_t size;
    if (size_t(at - arena) < ARENA) {
        access.shared = true;
        access.array = shared_array_at(at);
        const Shared& s = shared_arrays[access.array];
        access.offset = at - arena - ptrdiff_t(s.start);
        size = s.bytes;
    } else if (is_machine_memory(at)) {
        return;
    } else if ((access.array = device_array(at)) >= 0) {
        const DeviceArray& a = device_arrays[access.array];
        access.offset = at - a.start;
        size = a.end - a.start;
        if (a.argument < 0 && a.table < 0) forbid("out of bounds", access, "");
    } else {
        forbid("out of bounds", access, "");
    }
    if (access.offset < 0 || size_t(access.offset) + bytes > size) {
        forbid("out of bounds", access, ", which has " + std::to_string(size) + " bytes");
    }
    if (aligned && reinterpret_cast<uintptr_t>(at) % bytes) {
        forbid("misaligned", access, ": the address should be a multiple of the size");
    }
    accessed(access);
}

extern "C" void emulator_arrays(const DeviceArray* arrays, size_t count) {
    device_arrays.assign(arrays, arrays + count);
}

}  // namespace emulator

// --- functions that g++ calls -----------------------------------------------------------------

namespace emulator {
namespace {

void pass_on(Kind kind, const void* at, size_t bytes, bool aligned, const void* after) {
    if (!current) return;  // no kernel runs: the library is being loaded or described
    if (size_t(static_cast<const char*>(at) - me().stack) < STACK) return;  // a local variable
    watcher->access(kind, at, bytes, aligned, place_of(after) - 1);
}

}  // namespace
}  // namespace emulator

using namespace emulator;

#define TSAN_HOOK(name, kind, bytes, aligned)                                                    \
    extern "C" void __tsan_##name(const void* at) {                                              \
        pass_on(kind, at, bytes, aligned, __builtin_return_address(0));                          \
    }
#define TSAN_HOOKS(bytes)                                                                        \
    TSAN_HOOK(read##bytes, READ, bytes, true)                                                    \
    TSAN_HOOK(write##bytes, WRITE, bytes, true)                                                  \
    TSAN_HOOK(unaligned_read##bytes, READ, bytes, false)                                         \
    TSAN_HOOK(unaligned_write##bytes, WRITE, bytes, false)
TSAN_HOOKS(1)
TSAN_HOOKS(2)
TSAN_HOOKS(4)
TSAN_HOOKS(8)
TSAN_HOOKS(16)
#define TSAN_RANGE_HOOK(name, kind)                                                              \
    extern "C" void __tsan_##name##_range(const void* at, size_t bytes) {                        \
        pass_on(kind, at, bytes, false, __builtin_return_address(0));                            \
    }
TSAN_RANGE_HOOK(read, READ)
TSAN_RANGE_HOOK(write, WRITE)
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
