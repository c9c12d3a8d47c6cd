"""Reading models from files: one file a format, behind one Protocol. torch is imported where one needs it."""
