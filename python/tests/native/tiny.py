"""The tiny Llama fixture with a tokenizer, and a chat template if one is wanted."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader, GGUFValueType, GGUFWriter

LLAMA = Path(__file__).parents[3] / "model/tests/data/fixtures/llama/model.gguf"


def write(path: Path, template: str | None = None, *, add_bos: bool = True) -> Path:
    """Write the file: byte-level BPE of ASCII, `<s>` and `</s>`, five merges, padding to 128."""
    reader = GGUFReader(LLAMA)
    writer = GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if name.startswith("tokenizer."):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub)
    tokens = ["<s>", "</s>", "Ġ", "Ċ", *(chr(c) for c in range(ord("!"), ord("~") + 1))]
    tokens += ["th", "the", "Ġthe", "an", "and"]
    words = len(tokens)
    tokens += [f"[PAD{i}]" for i in range(words, 128)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (words - 2) + [5] * (128 - words))
    writer.add_token_merges(["t h", "th e", "Ġ the", "a n", "an d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(add_bos)
    if template is not None:
        writer.add_chat_template(template)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
