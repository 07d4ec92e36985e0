"""C++ that is built on first use by the system's compiler, cached, and called through ctypes."""

from qbench_suite.native.library import NativeLibrary

__all__ = ["NativeLibrary"]
