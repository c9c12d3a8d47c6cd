// Simulated DirectML: every operator can be made and recorded, two do something: constant fill, and identity (a copy
// with strides). Any other leaves its output as it was, and says so once on stderr.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <set>
#include <mutex>

#include "d3d12.h"

namespace rig {
namespace {

enum OperatorType : uint32_t {  // DML_OPERATOR_TYPE, but for the last
    kInitializer = 0,           // prepares other operators: nothing to be done here
    kIdentity = 1,
    kFillConstant = 103,
    kGraph = UINT32_MAX,
};

struct Typed {  // DML_OPERATOR_DESC, DML_TENSOR_DESC and DML_BINDING_DESC are all alike
    uint32_t type;
    const void* description;
};
struct TensorDescription {  // DML_BUFFER_TENSOR_DESC
    uint32_t data_type, flags, dimensions;
    const uint32_t *sizes, *strides;
    uint64_t bytes;
    uint32_t alignment;
};
struct BufferBinding {  // DML_BUFFER_BINDING
    Resource* resource;
    uint64_t offset, bytes;
};
struct BindingProperties {  // DML_BINDING_PROPERTIES
    uint32_t descriptors;
    uint64_t temporary_bytes, persistent_bytes;
};

uint64_t bytes_of(uint32_t data_type) {  // DML_TENSOR_DATA_TYPE
    static const uint8_t bytes[] = {1, 4, 2, 4, 2, 1, 4, 2, 1, 8, 8, 8};
    return data_type < sizeof bytes ? bytes[data_type] : 1;
}

/// Where the elements of a tensor are; the last dimension is the innermost.
struct Layout {
    std::vector<uint64_t> sizes, strides;

    static Layout of(const Typed* tensor) {
        const auto& from = *static_cast<const TensorDescription*>(tensor->description);
        Layout layout{{from.sizes, from.sizes + from.dimensions}, std::vector<uint64_t>(from.dimensions, 1)};
        if (from.strides) {
            layout.strides.assign(from.strides, from.strides + from.dimensions);
        } else {
            for (uint32_t i = from.dimensions; i-- > 1;) layout.strides[i - 1] = layout.strides[i] * layout.sizes[i];
        }
        return layout;
    }

    /// The first element of the n-th run along the last dimension.
    uint64_t start_of_run(uint64_t n) const {
        uint64_t start = 0;
        for (size_t i = sizes.size() - 1; i-- > 0; n /= sizes[i]) start += n % sizes[i] * strides[i];
        return start;
    }
};

/// Copies one run of elements; strides are in elements, and a stride of 0 repeats one.
void copy_run(uint8_t* to, uint64_t to_stride, const uint8_t* from, uint64_t from_stride, uint64_t count,
              uint64_t element_bytes) {
    if (to_stride == 1 && from_stride == 1) {
        memmove(to, from, count * element_bytes);
    } else if (to_stride == 1 && from_stride == 0) {
        memmove(to, from, element_bytes);
        for (uint64_t done = 1; done < count; done *= 2) {  // what is there is doubled
            memcpy(to + done * element_bytes, to, std::min(done, count - done) * element_bytes);
        }
    } else {
        for (uint64_t i = 0; i < count; ++i) {
            memmove(to + i * to_stride * element_bytes, from + i * from_stride * element_bytes, element_bytes);
        }
    }
}

void copy(uint8_t* to, const Layout& to_layout, const uint8_t* from, const Layout& from_layout,
          uint64_t element_bytes) {
    uint64_t elements = 1;
    for (const uint64_t size : to_layout.sizes) elements *= size;
    if (elements == 0) return;
    const uint64_t run = to_layout.sizes.back();
    for (uint64_t n = 0; n < elements / run; ++n) {
        copy_run(to + to_layout.start_of_run(n) * element_bytes, to_layout.strides.back(),
                 from + from_layout.start_of_run(n) * element_bytes, from_layout.strides.back(), run, element_bytes);
    }
}

/// Also what becomes of it when it is compiled.
class Operator : public Child {
  public:
    Operator(Object* device, uint32_t type);

    BindingProperties get_binding_properties() { return {1, 0, 0}; }

    const uint32_t type;
    bool simulated = false;
    uint64_t element_bytes = 1;
    uint64_t value = 0;  // of a constant fill, whose input it is
    Layout input, output;
};

const Interface kOperator("IDMLOperator", {
    slot<&Operator::get_parent>(7),
    slot<&Operator::get_binding_properties>(8),
});

Operator::Operator(Object* device, uint32_t type) : Child(kOperator, device), type(type) {}

/// Keeps the first buffer of each side: the two simulated operators have no more.
class BindingTable : public Child {
  public:
    explicit BindingTable(Object* device);

    void bind_inputs(uint32_t count, const Typed* bindings) { input = first_buffer(count, bindings); }
    void bind_outputs(uint32_t count, const Typed* bindings) { output = first_buffer(count, bindings); }
    Result reset(const void*) {
        input = output = {};
        return kOk;
    }

    BufferBinding input{}, output{};

  private:
    static BufferBinding first_buffer(uint32_t count, const Typed* bindings) {
        constexpr uint32_t kBuffer = 1;
        const bool buffer = count && bindings && bindings->type == kBuffer && bindings->description;
        return buffer ? *static_cast<const BufferBinding*>(bindings->description) : BufferBinding{};
    }
};

const Interface kBindingTable("IDMLBindingTable", {
    slot<&BindingTable::get_parent>(7),
    slot<&BindingTable::bind_inputs>(8),
    slot<&BindingTable::bind_outputs>(9),
    slot<&BindingTable::reset>(12),
});

BindingTable::BindingTable(Object* device) : Child(kBindingTable, device) {}

void say_once(uint32_t type) {
    static std::mutex lock;
    static std::set<uint32_t> said;
    const std::lock_guard<std::mutex> guard(lock);
    if (said.insert(type).second) {
        fprintf(stderr, "[rig] DirectML operator %d does nothing here\n", static_cast<int>(type));
    }
}

class Recorder : public Child {
  public:
    explicit Recorder(Object* device);

    void record_dispatch(CommandList* list, Operator* op, BindingTable* table) {
        const BufferBinding in = table->input, out = table->output;
        if (op->type == kInitializer || !out.resource) return;
        if (!op->simulated) return say_once(op->type);
        list->commands.emplace_back(
            [in, out, value = op->value, from = op->input, to = op->output, bytes = op->element_bytes] {
                const auto* constant = reinterpret_cast<const uint8_t*>(&value);
                copy(out.resource->address + out.offset, to, in.resource ? in.resource->address + in.offset : constant,
                     from, bytes);
            });
    }
};

const Interface kRecorder("IDMLCommandRecorder", {
    slot<&Recorder::get_parent>(7),
    slot<&Recorder::record_dispatch>(8),
});

Recorder::Recorder(Object* device) : Child(kRecorder, device) {}

class DmlDevice : public Child {
  public:
    explicit DmlDevice(Object* device);

    Result check_feature(uint32_t feature, uint32_t, const uint32_t* query, uint32_t size, uint32_t* data) {
        constexpr uint32_t kTensorDataTypeSupport = 0, kFloat64 = 9;
        memset(data, 0, size);
        if (feature == kTensorDataTypeSupport) *data = *query != kFloat64 || knobs().float64;
        return kOk;
    }

    Result create_operator(const Typed* description, const Guid*, Object** out) {
        auto* op = make<Operator>(this, description->type);
        if (op->type == kIdentity) describe_identity(op, description->description);
        if (op->type == kFillConstant) describe_fill(op, description->description);
        *out = op;
        return kOk;
    }

    Result compile_operator(Operator* op, uint32_t, const Guid*, Object** out) {
        op->add_reference();
        *out = op;
        return kOk;
    }

    Result create_initializer(uint32_t, Object* const*, const Guid*, Object** out) {
        *out = make<Operator>(this, kInitializer);
        return kOk;
    }

    Result create_recorder(const Guid*, Object** out) {
        *out = make<Recorder>(this);
        return kOk;
    }

    Result create_table(const void*, const Guid*, Object** out) {
        *out = make<BindingTable>(this);
        return kOk;
    }

    Result get_removed_reason() { return device_removed(adapter) ? kDeviceRemoved : kOk; }

    Result compile_graph(const void*, uint32_t, const Guid*, Object** out) {
        *out = make<Operator>(this, kGraph);
        return kOk;
    }

  private:
    static void describe_identity(Operator* op, const void* description) {
        struct Identity {  // DML_ELEMENT_WISE_IDENTITY_OPERATOR_DESC
            const Typed *input, *output;
            const float* scale_and_bias;
        };
        const auto& identity = *static_cast<const Identity*>(description);
        const auto type_of = [](const Typed* tensor) {
            return static_cast<const TensorDescription*>(tensor->description)->data_type;
        };
        const float* scale = identity.scale_and_bias;
        op->input = Layout::of(identity.input);
        op->output = Layout::of(identity.output);
        op->element_bytes = bytes_of(type_of(identity.output));
        op->simulated = (!scale || (scale[0] == 1 && scale[1] == 0)) && op->input.sizes == op->output.sizes &&
                        type_of(identity.input) == type_of(identity.output);
    }

    static void describe_fill(Operator* op, const void* description) {
        struct Fill {  // DML_FILL_VALUE_CONSTANT_OPERATOR_DESC
            const Typed* output;
            uint32_t data_type;
            uint64_t value;
        };
        const auto& fill = *static_cast<const Fill*>(description);
        op->output = Layout::of(fill.output);
        op->input = {op->output.sizes, std::vector<uint64_t>(op->output.sizes.size(), 0)};
        op->element_bytes = bytes_of(fill.data_type);
        op->value = fill.value;
        op->simulated = true;
    }
};

const Interface kDmlDevice("IDMLDevice", {
    slot<&DmlDevice::check_feature>(7),
    slot<&DmlDevice::create_operator>(8),
    slot<&DmlDevice::compile_operator>(9),
    slot<&DmlDevice::create_initializer>(10),
    slot<&DmlDevice::create_recorder>(11),
    slot<&DmlDevice::create_table>(12),
    slot<&DmlDevice::get_removed_reason>(15),
    slot<&DmlDevice::get_parent>(16),
    slot<&DmlDevice::compile_graph>(17),
});

DmlDevice::DmlDevice(Object* device) : Child(kDmlDevice, device) {}

}  // namespace
}  // namespace rig

// The native module needs libd3d12.so before libdirectml.so, so these two are found first: the wheel's own
// libdirectml.so is loaded, and never called. Neither calls the other, as the name would lead to the wheel's.
extern "C" rig::Result DMLCreateDevice(rig::Object* device, uint32_t, const rig::Guid*, rig::Object** out) {
    *out = rig::make<rig::DmlDevice>(device);
    return rig::kOk;
}

extern "C" rig::Result DMLCreateDevice1(rig::Object* device, uint32_t, uint32_t, const rig::Guid*, rig::Object** out) {
    *out = rig::make<rig::DmlDevice>(device);
    return rig::kOk;
}
