"""Models for others: a folder that says what it holds, and the Hugging Face Hub.

    embervlm hub save --out m --report benchmarks/eval-test.json
    embervlm hub push m owner/name
    embervlm hub pull owner/name --revision v1

`folder.py` writes, reads and checks the folder, `card.py` words its card, `remote.py` talks to the
Hub through `huggingface_hub` (the extra `hub`). Of Python it is `EmberVLM.save_pretrained`,
`from_pretrained` and `push_to_hub`.
"""

from embervlm.hub.folder import Description, check, read_description, save
from embervlm.hub.remote import Pulled, is_name, pull, push, upload_to_huggingface

__all__ = [
    "Description",
    "Pulled",
    "check",
    "is_name",
    "pull",
    "push",
    "read_description",
    "save",
    "upload_to_huggingface",
]
