"""What a format does to each layer of a model: its weights, its output, and the model's answers.

    found = tl.layers("model.gguf", Path("book.txt"), "Q4_K")
    found.to_pandas(), found.figure(), found.figure("blk.3.ffn_down.weight")
    found.explorer()                 # in a notebook, interactive: the extra `widget`
    found.save("results/layers")     # tables, figures, and a page to explore

A layer here is one weight matrix: a linear layer of a block, the embedding, or the head. Each is
swapped alone, everything else as in the reference, and then all up to it in the order of the model.
"""

from tritlab.layerwise.result import Layer, LayerReport
from tritlab.layerwise.run import Mode, layers

__all__ = ["Layer", "LayerReport", "Mode", "layers"]
