"""What trainer and services share: the domain, the bundle, the meaning of filters, the RPC bootstrap.

Small on purpose: numpy, polars and grpc, but no torch, no faiss, no onnxruntime.
"""
