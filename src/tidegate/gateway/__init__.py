"""The data plane: who may pass, and where to. Free of HTTP and gRPC types.

`admit()` is one synchronous function over memory; forwarding is what happens afterwards.
"""
