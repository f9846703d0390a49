"""The gateway: request, resolve, encode, retrieve, shape, response. Needs no torch, faiss or onnxruntime."""
