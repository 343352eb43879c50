"""What is in a store, for tests that compare it before and after."""

__all__ = ["vectors_in"]


def vectors_in(store):
    """Every vector, by space and node id."""
    found = {}
    for space, modality in store.partitions():
        seqs = store.find(space=space, modalities=[modality]).tolist()
        nodes = store.nodes(seqs)
        for seq, vector in zip(seqs, store.vectors(space, modality, seqs), strict=True):
            found[space, nodes[seq].node_id] = vector.tobytes()
    return found
