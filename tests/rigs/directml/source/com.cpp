// Tables, counts and the log (see com.h).
#include "com.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace rig {
namespace {

/// ID3D12SharingContract is how a capture tool shows itself on a queue. There is none.
constexpr Guid kSharingContract{0x4e61929c0adf7d52, 0xef66de30edffdbad};

template <size_t Number>
uint64_t unfilled(Object* self) {
    log("%s slot %zu is not simulated: answered 0", self->interface->name, Number);
    return 0;
}

template <size_t... Numbers>
std::array<void*, sizeof...(Numbers)> unfilled_slots(std::index_sequence<Numbers...>) {
    return {reinterpret_cast<void*>(&unfilled<Numbers>)...};
}

}  // namespace

Interface::Interface(const char* name, std::initializer_list<Slot> filled)
    : name(name), slots(unfilled_slots(std::make_index_sequence<96>())) {
    for (const Slot& one : {slot<&Object::query_interface>(0), slot<&Object::add_reference>(1),
                            slot<&Object::release>(2)}) {
        slots[one.number] = one.function;
    }
    for (const Slot& one : filled) slots[one.number] = one.function;
}

/// Answers with the object itself: it is asked only for its own interface or a later version of it.
Result Object::query_interface(const Guid* id, Object** out) {
    *out = nullptr;
    if (id->low == kSharingContract.low && id->high == kSharingContract.high) return kNoInterface;
    add_reference();
    *out = this;
    return kOk;
}

uint32_t Object::release() {
    const uint32_t left = --references_;
    if (left == 0) destroy(this);
    return left;
}

void log(const char* format, ...) {
    static const char* const wanted = getenv("RIG_LOG");
    if (!wanted || strcmp(wanted, "1") != 0) return;
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    fprintf(stderr, "[rig] %s\n", line);
}

void stop(const char* reason) {
    fprintf(stderr, "[rig] %s\n", reason);
    abort();
}

}  // namespace rig
