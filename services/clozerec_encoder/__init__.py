"""The encoder: sequences of items, and texts, to vectors of a bundle's space. Stateless; onnxruntime, no torch."""
