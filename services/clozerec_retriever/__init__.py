"""The retriever: vector, filter and exclusions to candidates, exactly. Holds the FAISS index; no torch."""
