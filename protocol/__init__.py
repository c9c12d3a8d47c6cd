"""The wire contract as code: what may be asked, what is answered, and how it is written."""
