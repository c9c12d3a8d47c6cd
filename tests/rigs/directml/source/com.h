// COM as its caller sees it: an object begins with the address of a table of functions, and is counted.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace rig {

using Result = int32_t;  // HRESULT
constexpr Result kOk = 0;
constexpr Result kFalse = 1;
constexpr Result kNotImplemented = static_cast<Result>(0x80004001);
constexpr Result kNoInterface = static_cast<Result>(0x80004002);
constexpr Result kFail = static_cast<Result>(0x80004005);
constexpr Result kOutOfMemory = static_cast<Result>(0x8007000E);
constexpr Result kInvalidArgument = static_cast<Result>(0x80070057);
constexpr Result kDeviceRemoved = static_cast<Result>(0x887A0005);

struct Guid {
    uint64_t low, high;
};

class Object;

template <auto Method>
struct Entry;  // a member function as the plain function that a COM caller calls
template <class T, class R, class... A, R (T::*Method)(A...)>
struct Entry<Method> {
    static R call(Object* self, A... arguments) { return (static_cast<T*>(self)->*Method)(arguments...); }
};

struct Slot {
    size_t number;
    void* function;
};

/// Puts a member function into a numbered slot; the caller's slot numbers are the contract.
template <auto Method>
Slot slot(size_t number) {
    return {number, reinterpret_cast<void*>(&Entry<Method>::call)};
}

/// One interface. Slots 0 to 2 are IUnknown's; one that nobody filled answers 0: S_OK, false or null.
struct Interface {
    Interface(const char* name, std::initializer_list<Slot> filled);

    const char* name;
    std::array<void*, 96> slots;
};

class Object {
  public:
    Object(const Interface& interface, uint32_t adapter)
        : slots_(interface.slots.data()), interface(&interface), adapter(adapter) {}
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;

    Result query_interface(const Guid* id, Object** out);
    uint32_t add_reference() { return ++references_; }
    uint32_t release();

  private:
    void* const* slots_;  // first, and no virtual function may come before it

  public:
    const Interface* const interface;
    const uint32_t adapter;
    void (*destroy)(Object*) = nullptr;

  private:
    std::atomic<uint32_t> references_{1};
};

template <class T, class... A>
T* make(A... arguments) {
    T* object = new T(arguments...);
    object->destroy = [](Object* self) { delete static_cast<T*>(self); };
    return object;
}

/// An object made by another, which it keeps alive.
class Child : public Object {
  public:
    Child(const Interface& interface, Object* parent) : Object(interface, parent->adapter), parent_(parent) {
        parent->add_reference();
    }
    ~Child() { parent_->release(); }

    Result get_parent(const Guid*, Object** out) {
        parent_->add_reference();
        *out = parent_;
        return kOk;
    }

  private:
    Object* parent_;
};

/// Writes a line to stderr where RIG_LOG=1.
void log(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// Ends the process with a line on stderr: the rig cannot go on without telling lies.
[[noreturn]] void stop(const char* reason);

}  // namespace rig
