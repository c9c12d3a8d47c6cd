"""One device kind each, behind ``DeviceBackend``. None of them sees the ledger."""
