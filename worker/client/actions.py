"""Generated from the contract; do not edit. Every action as a method with its own types."""

# fmt: off

from typing import Any, TypeVar

from protocol import results, store_results
from protocol import vocabulary as words
from worker.client.calls import LEFT_OUT, CallOptions, LeftOut

R = TypeVar("R")


class Actions:
    """Every action of the contract; each waits for its answer."""

    def get_status(self, *, device_id: str | None | LeftOut = LEFT_OUT, include_allocations: bool | LeftOut = LEFT_OUT, include_usage_stats: bool | LeftOut = LEFT_OUT, include_fragmentation: bool | LeftOut = LEFT_OUT, include_processes: bool | LeftOut = LEFT_OUT, refresh: bool | LeftOut = LEFT_OUT, limit: int | None | LeftOut = LEFT_OUT, after: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetStatusResult:
        """Ask where the memory is, on one device or all.

        include_processes: List the processes that hold memory of each device. Asks the driver or the system: some milliseconds.
        refresh: Ask the operating system and the devices now, instead of answering from readings up to 100 ms old (250 ms, of a device in a process of its own). One that does not answer in 40 ms is told of by its last figures.
        limit: Devices on a page; null for all of them.
        after: The ``next`` of the page before.
        """
        return self._call("memory.get_status", results.GetStatusResult, {"device_id": device_id, "include_allocations": include_allocations, "include_usage_stats": include_usage_stats, "include_fragmentation": include_fragmentation, "include_processes": include_processes, "refresh": refresh, "limit": limit, "after": after}, options)

    def get_usage(self, *, device_id: str | None | LeftOut = LEFT_OUT, group_by: words.GroupBy | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetUsageResult:
        """Ask for allocated bytes by owner, purpose or memory type."""
        return self._call("memory.get_usage", results.GetUsageResult, {"device_id": device_id, "group_by": group_by}, options)

    def get_allocations(self, *, device_id: str | None | LeftOut = LEFT_OUT, allocation_id: str | None | LeftOut = LEFT_OUT, owner: str | None | LeftOut = LEFT_OUT, purpose: str | None | LeftOut = LEFT_OUT, limit: int | LeftOut = LEFT_OUT, after: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetAllocationsResult:
        """List allocations, oldest first, a page at a time.

        after: The ``next`` of the page before.
        """
        return self._call("memory.get_allocations", results.GetAllocationsResult, {"device_id": device_id, "allocation_id": allocation_id, "owner": owner, "purpose": purpose, "limit": limit, "after": after}, options)

    def allocate(self, *, size_bytes: int, device_id: str | None | LeftOut = LEFT_OUT, memory_type: words.MemoryType | LeftOut = LEFT_OUT, initialize: words.Initialize | LeftOut = LEFT_OUT, alignment: int | None | LeftOut = LEFT_OUT, purpose: str | None | LeftOut = LEFT_OUT, owner: str | None | LeftOut = LEFT_OUT, persistent: bool | LeftOut = LEFT_OUT, lease_ms: int | None | LeftOut = LEFT_OUT, make_room: bool | LeftOut = LEFT_OUT, plan_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.AllocateResult:
        """Ask for memory. All or nothing: a failed allocate changes no figure.

        alignment: Bytes, a power of two up to 1 GiB; null for the device's own.
        lease_ms: The allocation is freed when this runs out.
        make_room: Models may be unloaded to make it fit.
        plan_id: A plan for so many bytes, which is carried out as it was answered, or refused as ``plan_stale``.
        """
        return self._call("memory.allocate", results.AllocateResult, {"size_bytes": size_bytes, "device_id": device_id, "memory_type": memory_type, "initialize": initialize, "alignment": alignment, "purpose": purpose, "owner": owner, "persistent": persistent, "lease_ms": lease_ms, "make_room": make_room, "plan_id": plan_id}, options)

    def deallocate(self, *, allocation_id: str, force: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.DeallocateResult:
        """Give one allocation back.

        force: Also while it is persistent.
        """
        return self._call("memory.deallocate", results.DeallocateResult, {"allocation_id": allocation_id, "force": force}, options)

    def renew_lease(self, *, allocation_id: str, lease_ms: int, options: CallOptions | None = None) -> results.RenewLeaseResult:
        """Have an allocation's lease end later, or sooner; one without a lease gets one.

        lease_ms: From now on, whatever was left of it.
        """
        return self._call("memory.renew_lease", results.RenewLeaseResult, {"allocation_id": allocation_id, "lease_ms": lease_ms}, options)

    def transfer(self, *, source_allocation_id: str, destination_device_id: str, transfer_type: words.TransferType | LeftOut = LEFT_OUT, memory_type: words.MemoryType | LeftOut = LEFT_OUT, verify: bool | LeftOut = LEFT_OUT, wait: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.TransferResult:
        """Copy or move an allocation's contents to a new allocation.

        memory_type: Of the new allocation.
        verify: Read the copy back and compare SHA-256 digests.
        wait: False answers at once; follow it with ``memory.get_transfer``.
        """
        return self._call("memory.transfer", results.TransferResult, {"source_allocation_id": source_allocation_id, "destination_device_id": destination_device_id, "transfer_type": transfer_type, "memory_type": memory_type, "verify": verify, "wait": wait}, options)

    def get_transfer(self, *, transfer_id: str, options: CallOptions | None = None) -> results.TransferResult:
        """Ask how far a transfer has come."""
        return self._call("memory.get_transfer", results.TransferResult, {"transfer_id": transfer_id}, options)

    def clear(self, *, device_id: str | None | LeftOut = LEFT_OUT, clear_type: words.ClearType | LeftOut = LEFT_OUT, owner: str | None | LeftOut = LEFT_OUT, force: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.ClearResult:
        """Give up caches, allocations or models.

        owner: Only this owner's allocations.
        force: Also what is persistent or pinned.
        """
        return self._call("memory.clear", results.ClearResult, {"device_id": device_id, "clear_type": clear_type, "owner": owner, "force": force}, options)

    def defragment(self, *, device_id: str | None | LeftOut = LEFT_OUT, aggressive: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.DefragmentResult:
        """Join free memory into larger blocks and give back what is not needed.

        aggressive: May restart the device's own process; its contents are carried over.
        """
        return self._call("memory.defragment", results.DefragmentResult, {"device_id": device_id, "aggressive": aggressive}, options)

    def optimize(self, *, device_id: str | None | LeftOut = LEFT_OUT, optimization_level: words.OptimizationLevel | LeftOut = LEFT_OUT, dry_run: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.OptimizeResult:
        """Carry out the recommended actions up to a level."""
        return self._call("memory.optimize", results.OptimizeResult, {"device_id": device_id, "optimization_level": optimization_level, "dry_run": dry_run}, options)

    def get_model_status(self, *, model_id: str | None | LeftOut = LEFT_OUT, device_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetModelStatusResult:
        """Ask for the configured models and where they are."""
        return self._call("memory.get_model_status", results.GetModelStatusResult, {"model_id": model_id, "device_id": device_id}, options)

    def model_optimize(self, *, device_id: str | None | LeftOut = LEFT_OUT, target_pressure_level: words.PressureLevel | float | None | LeftOut = LEFT_OUT, strategy: words.EvictionStrategy | LeftOut = LEFT_OUT, max_models_to_unload: int | None | LeftOut = LEFT_OUT, min_memory_to_free_bytes: int | None | LeftOut = LEFT_OUT, force_optimization: bool | LeftOut = LEFT_OUT, exclude_models: list[str] | LeftOut = LEFT_OUT, max_optimization_time_ms: int | None | LeftOut = LEFT_OUT, dry_run: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.ModelOptimizeResult:
        """Unload models until a goal is met.

        target_pressure_level: A level's name, or a percentage up to 100.
        """
        return self._call("memory.model_optimize", results.ModelOptimizeResult, {"device_id": device_id, "target_pressure_level": target_pressure_level, "strategy": strategy, "max_models_to_unload": max_models_to_unload, "min_memory_to_free_bytes": min_memory_to_free_bytes, "force_optimization": force_optimization, "exclude_models": exclude_models, "max_optimization_time_ms": max_optimization_time_ms, "dry_run": dry_run}, options)

    def get_pressure(self, *, device_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetPressureResult:
        """Ask how close devices are to running out, and what would help."""
        return self._call("memory.get_pressure", results.GetPressureResult, {"device_id": device_id}, options)

    def get_analytics(self, *, device_id: str | None | LeftOut = LEFT_OUT, time_range: str | LeftOut = LEFT_OUT, include: list[words.AnalyticsSection] | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetAnalyticsResult:
        """Ask what has happened lately.

        include: Sections to answer; null for all.
        """
        return self._call("memory.get_analytics", results.GetAnalyticsResult, {"device_id": device_id, "time_range": time_range, "include": include}, options)

    def get_metrics(self, *, options: CallOptions | None = None) -> results.GetMetricsResult:
        """Ask for all figures as a metrics collector reads them."""
        return self._call("memory.get_metrics", results.GetMetricsResult, {}, options)

    def get_optimization_recommendations(self, *, device_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetOptimizationRecommendationsResult:
        """Ask for the actions worth taking, over all devices, cheapest per byte first."""
        return self._call("memory.get_optimization_recommendations", results.GetOptimizationRecommendationsResult, {"device_id": device_id}, options)

    def load_model(self, *, model_id: str, device_id: str | None | LeftOut = LEFT_OUT, make_room: bool | LeftOut = LEFT_OUT, pin: bool | None | LeftOut = LEFT_OUT, keep_alive_ms: int | None | LeftOut = LEFT_OUT, allow_fallback: bool | LeftOut = LEFT_OUT, plan_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.LoadModelResult:
        """Load a model, or note one more use of it if it is loaded.

        device_id: Null for the model's own, else whichever has room.
        make_room: Other models may be unloaded to make it fit.
        pin: Whether it stays until unloaded by force; null leaves that as it is.
        keep_alive_ms: How long it stays after its last use, -1 for until evicted; null leaves that as it is.
        allow_fallback: The model's declared fallback may be loaded where it has no room itself.
        plan_id: A plan for this model, which is carried out as it was answered, or refused as ``plan_stale``; then ``make_room`` and ``allow_fallback`` have no say.
        """
        return self._call("memory.load_model", results.LoadModelResult, {"model_id": model_id, "device_id": device_id, "make_room": make_room, "pin": pin, "keep_alive_ms": keep_alive_ms, "allow_fallback": allow_fallback, "plan_id": plan_id}, options)

    def unload_model(self, *, model_id: str, mode: words.UnloadMode | LeftOut = LEFT_OUT, by_owner: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.UnloadedModel:
        """Unload a model that is not in use; where another process holds it, ask its owner to.

        mode: How much goes: `shrink` gives back what an engine keeps beside the model, which stays loaded; `offload` keeps a copy in the machine's own memory; `unload` keeps nothing.
        by_owner: The owner's word that it has unloaded the model, which another process than the worker held.
        """
        return self._call("memory.unload_model", results.UnloadedModel, {"model_id": model_id, "mode": mode, "by_owner": by_owner}, options)

    def reload_models(self, *, options: CallOptions | None = None) -> results.ReloadModelsResult:
        """Read the file of models again; what is loaded and declared as before stays loaded."""
        return self._call("memory.reload_models", results.ReloadModelsResult, {}, options)

    def plan(self, *, candidates: list[dict[str, Any]], allow_eviction: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.PlanResult:
        """Ask which of several ways fits, in the order of preference. Changes nothing: ``plan_id`` takes it up.

        allow_eviction: Models may be counted as room where they could be unloaded.
        """
        return self._call("memory.plan", results.PlanResult, {"candidates": candidates, "allow_eviction": allow_eviction}, options)

    def plan_batches(self, *, item_count: int | None | LeftOut = LEFT_OUT, bytes_per_item: int | None | LeftOut = LEFT_OUT, fixed_bytes: int | LeftOut = LEFT_OUT, device_id: str | None | LeftOut = LEFT_OUT, max_fraction: float | LeftOut = LEFT_OUT, plan_id: str | None | LeftOut = LEFT_OUT, done_items: int | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.PlanBatchesResult:
        """Ask how to cut work into batches that fit: ``item_count`` and ``bytes_per_item``, or with ``plan_id`` the rest of it, anew.

        fixed_bytes: Needed once beside each batch, whatever its size.
        max_fraction: Share of the device's headroom that a batch may take.
        plan_id: Work that was cut before: the headroom is another by now. Everything else but ``done_items`` is as it was.
        done_items: Items of it that are done.
        """
        return self._call("memory.plan_batches", results.PlanBatchesResult, {"item_count": item_count, "bytes_per_item": bytes_per_item, "fixed_bytes": fixed_bytes, "device_id": device_id, "max_fraction": max_fraction, "plan_id": plan_id, "done_items": done_items}, options)

    def set_limits(self, *, device_id: str, limit_bytes: int | None | LeftOut = LEFT_OUT, reserve_bytes: int | None | LeftOut = LEFT_OUT, thresholds: dict[str, Any] | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.SetLimitsResult:
        """Change what is left out stays; ``limit_bytes: null`` takes the cap away.

        limit_bytes: Hard cap on this worker's allocations on the device.
        reserve_bytes: Kept free for the host.
        """
        return self._call("memory.set_limits", results.SetLimitsResult, {"device_id": device_id, "limit_bytes": limit_bytes, "reserve_bytes": reserve_bytes, "thresholds": thresholds}, options)

    def register_consumer(self, *, consumer_id: str, held_bytes: int, offers: list[dict[str, Any]], kind: str | None | LeftOut = LEFT_OUT, device_id: str | None | LeftOut = LEFT_OUT, floor_bytes: int | LeftOut = LEFT_OUT, hits: int | None | LeftOut = LEFT_OUT, misses: int | None | LeftOut = LEFT_OUT, saved_ms: float | None | LeftOut = LEFT_OUT, owner: str | None | LeftOut = LEFT_OUT, lease_ms: int | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.RegisterConsumerResult:
        """Say what a consumer of memory outside the worker holds, and what giving it back costs; sent again, it updates.

        consumer_id: The host's own name for it; what begins with ``model:``, ``engine:``, ``pool:``, ``external:`` or ``server:`` is the worker's.
        kind: Free text, such as ``response_cache``.
        device_id: Where its memory is; null for ``cpu``.
        floor_bytes: What it can't give back.
        offers: What it would give back, cheapest per byte first; any part of one may be asked for.
        hits: Since it was made, as the two below: what is used of it tells whether what goes will be needed again.
        saved_ms: Milliseconds of rebuilding that its hits have saved.
        lease_ms: It is forgotten when it was not registered again for so long; null for until it is unregistered.
        """
        return self._call("memory.register_consumer", results.RegisterConsumerResult, {"consumer_id": consumer_id, "kind": kind, "device_id": device_id, "held_bytes": held_bytes, "floor_bytes": floor_bytes, "offers": offers, "hits": hits, "misses": misses, "saved_ms": saved_ms, "owner": owner, "lease_ms": lease_ms}, options)

    def released(self, *, consumer_id: str, bytes: int, options: CallOptions | None = None) -> results.ReleasedResult:
        """Say that a consumer gave memory back: the answer to ``memory.release_requested``, or of its own accord.

        bytes: 0 for none: what was asked for is not waited for any longer.
        """
        return self._call("memory.released", results.ReleasedResult, {"consumer_id": consumer_id, "bytes": bytes}, options)

    def unregister_consumer(self, *, consumer_id: str, options: CallOptions | None = None) -> results.UnregisterConsumerResult:
        """Have a consumer forgotten."""
        return self._call("memory.unregister_consumer", results.UnregisterConsumerResult, {"consumer_id": consumer_id}, options)

    def get_consumers(self, *, device_id: str | None | LeftOut = LEFT_OUT, kind: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetConsumersResult:
        """Ask what holds memory, the worker's own models and pools among it, and what giving it back costs."""
        return self._call("memory.get_consumers", results.GetConsumersResult, {"device_id": device_id, "kind": kind}, options)

    def store_open(self, *, store: str, kind: words.StoreKind, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, options_: dict[str, Any] | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreOpenResult:
        """Open a store in a scope, or find it open; its options change to those that are given."""
        return self._call("store.open", store_results.StoreOpenResult, {"store": store, "user_id": user_id, "project_id": project_id, "kind": kind, "options": options_}, options)

    def store_put(self, *, store: str, key: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, value: Any | LeftOut = LEFT_OUT, allocation_id: str | None | LeftOut = LEFT_OUT, vector: list[float] | None | LeftOut = LEFT_OUT, tokens: list[int] | None | LeftOut = LEFT_OUT, cost_ms: float | None | LeftOut = LEFT_OUT, ttl_ms: int | None | LeftOut = LEFT_OUT, tags: list[str] | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StorePutResult:
        """Put an entry into a store, in place of the one of that key. Nothing is stored where that fails.

        value: Whatever JSON says; it is answered as it was sent.
        allocation_id: In place of a value: the bytes of an allocation, which are copied.
        tokens: Of a store of kind ``kv``: what the tensors are of, from a prompt's beginning on. ``key`` then names the model, and all that its tensors depend on.
        cost_ms: What making it again takes, in milliseconds: the dearer, the longer it stays.
        ttl_ms: Null for the store's.
        """
        return self._call("store.put", store_results.StorePutResult, {"store": store, "user_id": user_id, "project_id": project_id, "key": key, "value": value, "allocation_id": allocation_id, "vector": vector, "tokens": tokens, "cost_ms": cost_ms, "ttl_ms": ttl_ms, "tags": tags}, options)

    def store_get(self, *, store: str, key: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreGetResult:
        """Get a copy of an entry. What is not there is not made."""
        return self._call("store.get", store_results.StoreGetResult, {"store": store, "user_id": user_id, "project_id": project_id, "key": key}, options)

    def store_search(self, *, store: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, vector: list[float] | None | LeftOut = LEFT_OUT, text: str | None | LeftOut = LEFT_OUT, tokens: list[int] | None | LeftOut = LEFT_OUT, key: str | None | LeftOut = LEFT_OUT, limit: int | LeftOut = LEFT_OUT, tags: list[str] | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreSearchResult:
        """Find the entries nearest to a vector or a text, or those that a prompt begins with.

        tokens: A prompt, for a store of kind ``kv``: what was put for a beginning of it is found, the longest first. With ``key``.
        key: The model of ``tokens``, as it was named when they were put.
        tags: Only entries that have all of these.
        """
        return self._call("store.search", store_results.StoreSearchResult, {"store": store, "user_id": user_id, "project_id": project_id, "vector": vector, "text": text, "tokens": tokens, "key": key, "limit": limit, "tags": tags}, options)

    def store_load_folder(self, *, store: str, folder: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, extensions: list[str] | LeftOut = LEFT_OUT, excludes: list[str] | LeftOut = LEFT_OUT, chunk_bytes: int | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreLoadFolderResult:
        """Load a folder of texts into a store of documents: what is new or changed is read, what is gone is deleted.

        folder: Below ``--documents-root``; ``.`` is that folder itself. Links that lead out of it are refused.
        extensions: Only files that end so: ``.md``, ``py``; empty for all.
        excludes: Patterns of names, or of paths within the folder, that are left out: ``*.min.js``, ``build``.
        chunk_bytes: The most that a piece has, in UTF-8; texts are cut between paragraphs, lines or words.
        """
        return self._call("store.load_folder", store_results.StoreLoadFolderResult, {"store": store, "user_id": user_id, "project_id": project_id, "folder": folder, "extensions": extensions, "excludes": excludes, "chunk_bytes": chunk_bytes}, options)

    def store_list(self, *, store: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, after: str | None | LeftOut = LEFT_OUT, limit: int | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreListResult:
        """List a store's entries by key, a page at a time.

        after: The ``next`` of the page before.
        """
        return self._call("store.list", store_results.StoreListResult, {"store": store, "user_id": user_id, "project_id": project_id, "after": after, "limit": limit}, options)

    def store_delete(self, *, store: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, key: str | None | LeftOut = LEFT_OUT, tag: str | None | LeftOut = LEFT_OUT, prefix: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreDeleteResult:
        """Delete entries: one, those with a tag, or those whose keys begin alike."""
        return self._call("store.delete", store_results.StoreDeleteResult, {"store": store, "user_id": user_id, "project_id": project_id, "key": key, "tag": tag, "prefix": prefix}, options)

    def store_clear(self, *, store: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreClearResult:
        """Delete all entries of a store, which stays open."""
        return self._call("store.clear", store_results.StoreClearResult, {"store": store, "user_id": user_id, "project_id": project_id}, options)

    def store_close(self, *, store: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreCloseResult:
        """Close a store: its memory goes back, and what of it is persistent stays on disk until it is opened again."""
        return self._call("store.close", store_results.StoreCloseResult, {"store": store, "user_id": user_id, "project_id": project_id}, options)

    def store_delete_scope(self, *, user_id: str, project_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreDeleteScopeResult:
        """Delete all that is kept of a user, or of one project of theirs, in memory and on disk.

        project_id: Null for all of the user's.
        """
        return self._call("store.delete_scope", store_results.StoreDeleteScopeResult, {"user_id": user_id, "project_id": project_id}, options)

    def store_stats(self, *, store: str | None | LeftOut = LEFT_OUT, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreStatsResult:
        """Ask what the stores of a scope hold, and what they save.

        store: Null for all of the scope.
        """
        return self._call("store.stats", store_results.StoreStatsResult, {"store": store, "user_id": user_id, "project_id": project_id}, options)

    def operation_begin(self, *, name: str, options: CallOptions | None = None) -> results.OperationBeginResult:
        """Begin to measure something that the host does.

        name: What ``memory.get_analytics`` counts it as: ``operation:NAME``. At most 256 names are told apart.
        """
        return self._call("operation.begin", results.OperationBeginResult, {"name": name}, options)

    def operation_end(self, *, operation_id: str, failed: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.OperationEndResult:
        """End an operation, and ask what it took.

        failed: Whether what was done failed: it is counted so.
        """
        return self._call("operation.end", results.OperationEndResult, {"operation_id": operation_id, "failed": failed}, options)

    def fleet_drain(self, *, node: str, options: CallOptions | None = None) -> results.FleetDrainResult:
        """Empty a node of a fleet, so that it can be taken away; nothing is placed on it until it is started again.

        node: What stands before the slash of its device ids.
        """
        return self._call("fleet.drain", results.FleetDrainResult, {"node": node}, options)

    def ping(self, *, options: CallOptions | None = None) -> results.PingResult:
        """Ask whether the worker answers."""
        return self._call("worker.ping", results.PingResult, {}, options)

    def get_health(self, *, options: CallOptions | None = None) -> results.GetHealthResult:
        """Ask how each part of the worker is."""
        return self._call("worker.get_health", results.GetHealthResult, {}, options)

    def _call(self, action: str, kind: type[R], data: dict[str, Any], options: CallOptions | None) -> R:
        raise NotImplementedError


class AsyncActions:
    """Every action of the contract; each is a coroutine."""

    async def get_status(self, *, device_id: str | None | LeftOut = LEFT_OUT, include_allocations: bool | LeftOut = LEFT_OUT, include_usage_stats: bool | LeftOut = LEFT_OUT, include_fragmentation: bool | LeftOut = LEFT_OUT, include_processes: bool | LeftOut = LEFT_OUT, refresh: bool | LeftOut = LEFT_OUT, limit: int | None | LeftOut = LEFT_OUT, after: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetStatusResult:
        """Ask where the memory is, on one device or all.

        include_processes: List the processes that hold memory of each device. Asks the driver or the system: some milliseconds.
        refresh: Ask the operating system and the devices now, instead of answering from readings up to 100 ms old (250 ms, of a device in a process of its own). One that does not answer in 40 ms is told of by its last figures.
        limit: Devices on a page; null for all of them.
        after: The ``next`` of the page before.
        """
        return await self._call("memory.get_status", results.GetStatusResult, {"device_id": device_id, "include_allocations": include_allocations, "include_usage_stats": include_usage_stats, "include_fragmentation": include_fragmentation, "include_processes": include_processes, "refresh": refresh, "limit": limit, "after": after}, options)

    async def get_usage(self, *, device_id: str | None | LeftOut = LEFT_OUT, group_by: words.GroupBy | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetUsageResult:
        """Ask for allocated bytes by owner, purpose or memory type."""
        return await self._call("memory.get_usage", results.GetUsageResult, {"device_id": device_id, "group_by": group_by}, options)

    async def get_allocations(self, *, device_id: str | None | LeftOut = LEFT_OUT, allocation_id: str | None | LeftOut = LEFT_OUT, owner: str | None | LeftOut = LEFT_OUT, purpose: str | None | LeftOut = LEFT_OUT, limit: int | LeftOut = LEFT_OUT, after: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetAllocationsResult:
        """List allocations, oldest first, a page at a time.

        after: The ``next`` of the page before.
        """
        return await self._call("memory.get_allocations", results.GetAllocationsResult, {"device_id": device_id, "allocation_id": allocation_id, "owner": owner, "purpose": purpose, "limit": limit, "after": after}, options)

    async def allocate(self, *, size_bytes: int, device_id: str | None | LeftOut = LEFT_OUT, memory_type: words.MemoryType | LeftOut = LEFT_OUT, initialize: words.Initialize | LeftOut = LEFT_OUT, alignment: int | None | LeftOut = LEFT_OUT, purpose: str | None | LeftOut = LEFT_OUT, owner: str | None | LeftOut = LEFT_OUT, persistent: bool | LeftOut = LEFT_OUT, lease_ms: int | None | LeftOut = LEFT_OUT, make_room: bool | LeftOut = LEFT_OUT, plan_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.AllocateResult:
        """Ask for memory. All or nothing: a failed allocate changes no figure.

        alignment: Bytes, a power of two up to 1 GiB; null for the device's own.
        lease_ms: The allocation is freed when this runs out.
        make_room: Models may be unloaded to make it fit.
        plan_id: A plan for so many bytes, which is carried out as it was answered, or refused as ``plan_stale``.
        """
        return await self._call("memory.allocate", results.AllocateResult, {"size_bytes": size_bytes, "device_id": device_id, "memory_type": memory_type, "initialize": initialize, "alignment": alignment, "purpose": purpose, "owner": owner, "persistent": persistent, "lease_ms": lease_ms, "make_room": make_room, "plan_id": plan_id}, options)

    async def deallocate(self, *, allocation_id: str, force: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.DeallocateResult:
        """Give one allocation back.

        force: Also while it is persistent.
        """
        return await self._call("memory.deallocate", results.DeallocateResult, {"allocation_id": allocation_id, "force": force}, options)

    async def renew_lease(self, *, allocation_id: str, lease_ms: int, options: CallOptions | None = None) -> results.RenewLeaseResult:
        """Have an allocation's lease end later, or sooner; one without a lease gets one.

        lease_ms: From now on, whatever was left of it.
        """
        return await self._call("memory.renew_lease", results.RenewLeaseResult, {"allocation_id": allocation_id, "lease_ms": lease_ms}, options)

    async def transfer(self, *, source_allocation_id: str, destination_device_id: str, transfer_type: words.TransferType | LeftOut = LEFT_OUT, memory_type: words.MemoryType | LeftOut = LEFT_OUT, verify: bool | LeftOut = LEFT_OUT, wait: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.TransferResult:
        """Copy or move an allocation's contents to a new allocation.

        memory_type: Of the new allocation.
        verify: Read the copy back and compare SHA-256 digests.
        wait: False answers at once; follow it with ``memory.get_transfer``.
        """
        return await self._call("memory.transfer", results.TransferResult, {"source_allocation_id": source_allocation_id, "destination_device_id": destination_device_id, "transfer_type": transfer_type, "memory_type": memory_type, "verify": verify, "wait": wait}, options)

    async def get_transfer(self, *, transfer_id: str, options: CallOptions | None = None) -> results.TransferResult:
        """Ask how far a transfer has come."""
        return await self._call("memory.get_transfer", results.TransferResult, {"transfer_id": transfer_id}, options)

    async def clear(self, *, device_id: str | None | LeftOut = LEFT_OUT, clear_type: words.ClearType | LeftOut = LEFT_OUT, owner: str | None | LeftOut = LEFT_OUT, force: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.ClearResult:
        """Give up caches, allocations or models.

        owner: Only this owner's allocations.
        force: Also what is persistent or pinned.
        """
        return await self._call("memory.clear", results.ClearResult, {"device_id": device_id, "clear_type": clear_type, "owner": owner, "force": force}, options)

    async def defragment(self, *, device_id: str | None | LeftOut = LEFT_OUT, aggressive: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.DefragmentResult:
        """Join free memory into larger blocks and give back what is not needed.

        aggressive: May restart the device's own process; its contents are carried over.
        """
        return await self._call("memory.defragment", results.DefragmentResult, {"device_id": device_id, "aggressive": aggressive}, options)

    async def optimize(self, *, device_id: str | None | LeftOut = LEFT_OUT, optimization_level: words.OptimizationLevel | LeftOut = LEFT_OUT, dry_run: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.OptimizeResult:
        """Carry out the recommended actions up to a level."""
        return await self._call("memory.optimize", results.OptimizeResult, {"device_id": device_id, "optimization_level": optimization_level, "dry_run": dry_run}, options)

    async def get_model_status(self, *, model_id: str | None | LeftOut = LEFT_OUT, device_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetModelStatusResult:
        """Ask for the configured models and where they are."""
        return await self._call("memory.get_model_status", results.GetModelStatusResult, {"model_id": model_id, "device_id": device_id}, options)

    async def model_optimize(self, *, device_id: str | None | LeftOut = LEFT_OUT, target_pressure_level: words.PressureLevel | float | None | LeftOut = LEFT_OUT, strategy: words.EvictionStrategy | LeftOut = LEFT_OUT, max_models_to_unload: int | None | LeftOut = LEFT_OUT, min_memory_to_free_bytes: int | None | LeftOut = LEFT_OUT, force_optimization: bool | LeftOut = LEFT_OUT, exclude_models: list[str] | LeftOut = LEFT_OUT, max_optimization_time_ms: int | None | LeftOut = LEFT_OUT, dry_run: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.ModelOptimizeResult:
        """Unload models until a goal is met.

        target_pressure_level: A level's name, or a percentage up to 100.
        """
        return await self._call("memory.model_optimize", results.ModelOptimizeResult, {"device_id": device_id, "target_pressure_level": target_pressure_level, "strategy": strategy, "max_models_to_unload": max_models_to_unload, "min_memory_to_free_bytes": min_memory_to_free_bytes, "force_optimization": force_optimization, "exclude_models": exclude_models, "max_optimization_time_ms": max_optimization_time_ms, "dry_run": dry_run}, options)

    async def get_pressure(self, *, device_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetPressureResult:
        """Ask how close devices are to running out, and what would help."""
        return await self._call("memory.get_pressure", results.GetPressureResult, {"device_id": device_id}, options)

    async def get_analytics(self, *, device_id: str | None | LeftOut = LEFT_OUT, time_range: str | LeftOut = LEFT_OUT, include: list[words.AnalyticsSection] | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetAnalyticsResult:
        """Ask what has happened lately.

        include: Sections to answer; null for all.
        """
        return await self._call("memory.get_analytics", results.GetAnalyticsResult, {"device_id": device_id, "time_range": time_range, "include": include}, options)

    async def get_metrics(self, *, options: CallOptions | None = None) -> results.GetMetricsResult:
        """Ask for all figures as a metrics collector reads them."""
        return await self._call("memory.get_metrics", results.GetMetricsResult, {}, options)

    async def get_optimization_recommendations(self, *, device_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetOptimizationRecommendationsResult:
        """Ask for the actions worth taking, over all devices, cheapest per byte first."""
        return await self._call("memory.get_optimization_recommendations", results.GetOptimizationRecommendationsResult, {"device_id": device_id}, options)

    async def load_model(self, *, model_id: str, device_id: str | None | LeftOut = LEFT_OUT, make_room: bool | LeftOut = LEFT_OUT, pin: bool | None | LeftOut = LEFT_OUT, keep_alive_ms: int | None | LeftOut = LEFT_OUT, allow_fallback: bool | LeftOut = LEFT_OUT, plan_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.LoadModelResult:
        """Load a model, or note one more use of it if it is loaded.

        device_id: Null for the model's own, else whichever has room.
        make_room: Other models may be unloaded to make it fit.
        pin: Whether it stays until unloaded by force; null leaves that as it is.
        keep_alive_ms: How long it stays after its last use, -1 for until evicted; null leaves that as it is.
        allow_fallback: The model's declared fallback may be loaded where it has no room itself.
        plan_id: A plan for this model, which is carried out as it was answered, or refused as ``plan_stale``; then ``make_room`` and ``allow_fallback`` have no say.
        """
        return await self._call("memory.load_model", results.LoadModelResult, {"model_id": model_id, "device_id": device_id, "make_room": make_room, "pin": pin, "keep_alive_ms": keep_alive_ms, "allow_fallback": allow_fallback, "plan_id": plan_id}, options)

    async def unload_model(self, *, model_id: str, mode: words.UnloadMode | LeftOut = LEFT_OUT, by_owner: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.UnloadedModel:
        """Unload a model that is not in use; where another process holds it, ask its owner to.

        mode: How much goes: `shrink` gives back what an engine keeps beside the model, which stays loaded; `offload` keeps a copy in the machine's own memory; `unload` keeps nothing.
        by_owner: The owner's word that it has unloaded the model, which another process than the worker held.
        """
        return await self._call("memory.unload_model", results.UnloadedModel, {"model_id": model_id, "mode": mode, "by_owner": by_owner}, options)

    async def reload_models(self, *, options: CallOptions | None = None) -> results.ReloadModelsResult:
        """Read the file of models again; what is loaded and declared as before stays loaded."""
        return await self._call("memory.reload_models", results.ReloadModelsResult, {}, options)

    async def plan(self, *, candidates: list[dict[str, Any]], allow_eviction: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.PlanResult:
        """Ask which of several ways fits, in the order of preference. Changes nothing: ``plan_id`` takes it up.

        allow_eviction: Models may be counted as room where they could be unloaded.
        """
        return await self._call("memory.plan", results.PlanResult, {"candidates": candidates, "allow_eviction": allow_eviction}, options)

    async def plan_batches(self, *, item_count: int | None | LeftOut = LEFT_OUT, bytes_per_item: int | None | LeftOut = LEFT_OUT, fixed_bytes: int | LeftOut = LEFT_OUT, device_id: str | None | LeftOut = LEFT_OUT, max_fraction: float | LeftOut = LEFT_OUT, plan_id: str | None | LeftOut = LEFT_OUT, done_items: int | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.PlanBatchesResult:
        """Ask how to cut work into batches that fit: ``item_count`` and ``bytes_per_item``, or with ``plan_id`` the rest of it, anew.

        fixed_bytes: Needed once beside each batch, whatever its size.
        max_fraction: Share of the device's headroom that a batch may take.
        plan_id: Work that was cut before: the headroom is another by now. Everything else but ``done_items`` is as it was.
        done_items: Items of it that are done.
        """
        return await self._call("memory.plan_batches", results.PlanBatchesResult, {"item_count": item_count, "bytes_per_item": bytes_per_item, "fixed_bytes": fixed_bytes, "device_id": device_id, "max_fraction": max_fraction, "plan_id": plan_id, "done_items": done_items}, options)

    async def set_limits(self, *, device_id: str, limit_bytes: int | None | LeftOut = LEFT_OUT, reserve_bytes: int | None | LeftOut = LEFT_OUT, thresholds: dict[str, Any] | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.SetLimitsResult:
        """Change what is left out stays; ``limit_bytes: null`` takes the cap away.

        limit_bytes: Hard cap on this worker's allocations on the device.
        reserve_bytes: Kept free for the host.
        """
        return await self._call("memory.set_limits", results.SetLimitsResult, {"device_id": device_id, "limit_bytes": limit_bytes, "reserve_bytes": reserve_bytes, "thresholds": thresholds}, options)

    async def register_consumer(self, *, consumer_id: str, held_bytes: int, offers: list[dict[str, Any]], kind: str | None | LeftOut = LEFT_OUT, device_id: str | None | LeftOut = LEFT_OUT, floor_bytes: int | LeftOut = LEFT_OUT, hits: int | None | LeftOut = LEFT_OUT, misses: int | None | LeftOut = LEFT_OUT, saved_ms: float | None | LeftOut = LEFT_OUT, owner: str | None | LeftOut = LEFT_OUT, lease_ms: int | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.RegisterConsumerResult:
        """Say what a consumer of memory outside the worker holds, and what giving it back costs; sent again, it updates.

        consumer_id: The host's own name for it; what begins with ``model:``, ``engine:``, ``pool:``, ``external:`` or ``server:`` is the worker's.
        kind: Free text, such as ``response_cache``.
        device_id: Where its memory is; null for ``cpu``.
        floor_bytes: What it can't give back.
        offers: What it would give back, cheapest per byte first; any part of one may be asked for.
        hits: Since it was made, as the two below: what is used of it tells whether what goes will be needed again.
        saved_ms: Milliseconds of rebuilding that its hits have saved.
        lease_ms: It is forgotten when it was not registered again for so long; null for until it is unregistered.
        """
        return await self._call("memory.register_consumer", results.RegisterConsumerResult, {"consumer_id": consumer_id, "kind": kind, "device_id": device_id, "held_bytes": held_bytes, "floor_bytes": floor_bytes, "offers": offers, "hits": hits, "misses": misses, "saved_ms": saved_ms, "owner": owner, "lease_ms": lease_ms}, options)

    async def released(self, *, consumer_id: str, bytes: int, options: CallOptions | None = None) -> results.ReleasedResult:
        """Say that a consumer gave memory back: the answer to ``memory.release_requested``, or of its own accord.

        bytes: 0 for none: what was asked for is not waited for any longer.
        """
        return await self._call("memory.released", results.ReleasedResult, {"consumer_id": consumer_id, "bytes": bytes}, options)

    async def unregister_consumer(self, *, consumer_id: str, options: CallOptions | None = None) -> results.UnregisterConsumerResult:
        """Have a consumer forgotten."""
        return await self._call("memory.unregister_consumer", results.UnregisterConsumerResult, {"consumer_id": consumer_id}, options)

    async def get_consumers(self, *, device_id: str | None | LeftOut = LEFT_OUT, kind: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.GetConsumersResult:
        """Ask what holds memory, the worker's own models and pools among it, and what giving it back costs."""
        return await self._call("memory.get_consumers", results.GetConsumersResult, {"device_id": device_id, "kind": kind}, options)

    async def store_open(self, *, store: str, kind: words.StoreKind, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, options_: dict[str, Any] | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreOpenResult:
        """Open a store in a scope, or find it open; its options change to those that are given."""
        return await self._call("store.open", store_results.StoreOpenResult, {"store": store, "user_id": user_id, "project_id": project_id, "kind": kind, "options": options_}, options)

    async def store_put(self, *, store: str, key: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, value: Any | LeftOut = LEFT_OUT, allocation_id: str | None | LeftOut = LEFT_OUT, vector: list[float] | None | LeftOut = LEFT_OUT, tokens: list[int] | None | LeftOut = LEFT_OUT, cost_ms: float | None | LeftOut = LEFT_OUT, ttl_ms: int | None | LeftOut = LEFT_OUT, tags: list[str] | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StorePutResult:
        """Put an entry into a store, in place of the one of that key. Nothing is stored where that fails.

        value: Whatever JSON says; it is answered as it was sent.
        allocation_id: In place of a value: the bytes of an allocation, which are copied.
        tokens: Of a store of kind ``kv``: what the tensors are of, from a prompt's beginning on. ``key`` then names the model, and all that its tensors depend on.
        cost_ms: What making it again takes, in milliseconds: the dearer, the longer it stays.
        ttl_ms: Null for the store's.
        """
        return await self._call("store.put", store_results.StorePutResult, {"store": store, "user_id": user_id, "project_id": project_id, "key": key, "value": value, "allocation_id": allocation_id, "vector": vector, "tokens": tokens, "cost_ms": cost_ms, "ttl_ms": ttl_ms, "tags": tags}, options)

    async def store_get(self, *, store: str, key: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreGetResult:
        """Get a copy of an entry. What is not there is not made."""
        return await self._call("store.get", store_results.StoreGetResult, {"store": store, "user_id": user_id, "project_id": project_id, "key": key}, options)

    async def store_search(self, *, store: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, vector: list[float] | None | LeftOut = LEFT_OUT, text: str | None | LeftOut = LEFT_OUT, tokens: list[int] | None | LeftOut = LEFT_OUT, key: str | None | LeftOut = LEFT_OUT, limit: int | LeftOut = LEFT_OUT, tags: list[str] | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreSearchResult:
        """Find the entries nearest to a vector or a text, or those that a prompt begins with.

        tokens: A prompt, for a store of kind ``kv``: what was put for a beginning of it is found, the longest first. With ``key``.
        key: The model of ``tokens``, as it was named when they were put.
        tags: Only entries that have all of these.
        """
        return await self._call("store.search", store_results.StoreSearchResult, {"store": store, "user_id": user_id, "project_id": project_id, "vector": vector, "text": text, "tokens": tokens, "key": key, "limit": limit, "tags": tags}, options)

    async def store_load_folder(self, *, store: str, folder: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, extensions: list[str] | LeftOut = LEFT_OUT, excludes: list[str] | LeftOut = LEFT_OUT, chunk_bytes: int | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreLoadFolderResult:
        """Load a folder of texts into a store of documents: what is new or changed is read, what is gone is deleted.

        folder: Below ``--documents-root``; ``.`` is that folder itself. Links that lead out of it are refused.
        extensions: Only files that end so: ``.md``, ``py``; empty for all.
        excludes: Patterns of names, or of paths within the folder, that are left out: ``*.min.js``, ``build``.
        chunk_bytes: The most that a piece has, in UTF-8; texts are cut between paragraphs, lines or words.
        """
        return await self._call("store.load_folder", store_results.StoreLoadFolderResult, {"store": store, "user_id": user_id, "project_id": project_id, "folder": folder, "extensions": extensions, "excludes": excludes, "chunk_bytes": chunk_bytes}, options)

    async def store_list(self, *, store: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, after: str | None | LeftOut = LEFT_OUT, limit: int | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreListResult:
        """List a store's entries by key, a page at a time.

        after: The ``next`` of the page before.
        """
        return await self._call("store.list", store_results.StoreListResult, {"store": store, "user_id": user_id, "project_id": project_id, "after": after, "limit": limit}, options)

    async def store_delete(self, *, store: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, key: str | None | LeftOut = LEFT_OUT, tag: str | None | LeftOut = LEFT_OUT, prefix: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreDeleteResult:
        """Delete entries: one, those with a tag, or those whose keys begin alike."""
        return await self._call("store.delete", store_results.StoreDeleteResult, {"store": store, "user_id": user_id, "project_id": project_id, "key": key, "tag": tag, "prefix": prefix}, options)

    async def store_clear(self, *, store: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreClearResult:
        """Delete all entries of a store, which stays open."""
        return await self._call("store.clear", store_results.StoreClearResult, {"store": store, "user_id": user_id, "project_id": project_id}, options)

    async def store_close(self, *, store: str, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreCloseResult:
        """Close a store: its memory goes back, and what of it is persistent stays on disk until it is opened again."""
        return await self._call("store.close", store_results.StoreCloseResult, {"store": store, "user_id": user_id, "project_id": project_id}, options)

    async def store_delete_scope(self, *, user_id: str, project_id: str | None | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreDeleteScopeResult:
        """Delete all that is kept of a user, or of one project of theirs, in memory and on disk.

        project_id: Null for all of the user's.
        """
        return await self._call("store.delete_scope", store_results.StoreDeleteScopeResult, {"user_id": user_id, "project_id": project_id}, options)

    async def store_stats(self, *, store: str | None | LeftOut = LEFT_OUT, user_id: str | LeftOut = LEFT_OUT, project_id: str | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> store_results.StoreStatsResult:
        """Ask what the stores of a scope hold, and what they save.

        store: Null for all of the scope.
        """
        return await self._call("store.stats", store_results.StoreStatsResult, {"store": store, "user_id": user_id, "project_id": project_id}, options)

    async def operation_begin(self, *, name: str, options: CallOptions | None = None) -> results.OperationBeginResult:
        """Begin to measure something that the host does.

        name: What ``memory.get_analytics`` counts it as: ``operation:NAME``. At most 256 names are told apart.
        """
        return await self._call("operation.begin", results.OperationBeginResult, {"name": name}, options)

    async def operation_end(self, *, operation_id: str, failed: bool | LeftOut = LEFT_OUT, options: CallOptions | None = None) -> results.OperationEndResult:
        """End an operation, and ask what it took.

        failed: Whether what was done failed: it is counted so.
        """
        return await self._call("operation.end", results.OperationEndResult, {"operation_id": operation_id, "failed": failed}, options)

    async def fleet_drain(self, *, node: str, options: CallOptions | None = None) -> results.FleetDrainResult:
        """Empty a node of a fleet, so that it can be taken away; nothing is placed on it until it is started again.

        node: What stands before the slash of its device ids.
        """
        return await self._call("fleet.drain", results.FleetDrainResult, {"node": node}, options)

    async def ping(self, *, options: CallOptions | None = None) -> results.PingResult:
        """Ask whether the worker answers."""
        return await self._call("worker.ping", results.PingResult, {}, options)

    async def get_health(self, *, options: CallOptions | None = None) -> results.GetHealthResult:
        """Ask how each part of the worker is."""
        return await self._call("worker.get_health", results.GetHealthResult, {}, options)

    async def _call(self, action: str, kind: type[R], data: dict[str, Any], options: CallOptions | None) -> R:
        raise NotImplementedError
