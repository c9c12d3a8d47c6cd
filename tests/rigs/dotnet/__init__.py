"""A C# toolchain for machines without the .NET SDK: see README.md beside this file."""
