// The Direct3D 12 objects that the DirectML half works on.
#pragma once

#include <functional>
#include <vector>

#include "books.h"
#include "com.h"

namespace rig {

struct ResourceDescription {  // D3D12_RESOURCE_DESC
    uint32_t dimension;
    uint64_t alignment, width;
    uint32_t height;
    uint16_t depth, mip_levels;
    uint32_t format, sample_count, sample_quality, layout, flags;
};
static_assert(sizeof(ResourceDescription) == 56);

/// A range of addresses: a committed resource owns the memory there, a reserved one is mapped onto heaps, tile by
/// tile. Touching a tile that is not mapped kills the process; a real device would be removed.
class Resource : public Child {
  public:
    Resource(Object* device, const ResourceDescription* description, int protection);
    ~Resource();

    Result map(uint32_t, const void*, void** out);
    ResourceDescription get_description() { return description_; }
    uint64_t get_gpu_address() { return reinterpret_cast<uint64_t>(address); }

    uint8_t* const address;  // null where the system had no room
    Memory booked_as = kMemories;

  private:
    const ResourceDescription description_;
};

/// What was recorded, to be done in order when the list is executed.
class CommandList : public Child {
  public:
    explicit CommandList(Object* device);

    Result reset(Object*, Object*);
    void copy_buffer(Resource* to, uint64_t to_offset, Resource* from, uint64_t from_offset, uint64_t bytes);

    std::vector<std::function<void()>> commands;
};

}  // namespace rig
