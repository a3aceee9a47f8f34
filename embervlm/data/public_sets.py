"""Which public sets the pipeline learns from: their files, licences and homes, in one table.

`embervlm data download` (see `download.py`) fetches what stands here and nothing else. Nothing is a
guess: an address is its publisher's, as it stands in his pages or in the tools of others that fetch
from there; a size or checksum names who states it; what we could not confirm is `None` and shown as
"not stated". A set that cannot be had by address says in one sentence what to do instead. The
photos of most sets are COCO's and stand there once: `photos_in` names the set that has them.
"""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class RemoteFile:
    """One file of a set.

    `size_bytes` and `sha256` are None where nobody states them; `about` is a size as its publisher
    rounds it. `unpack` says that it is an archive to unpack, `minimal` that `--minimal` fetches it:
    the annotations and the smallest split.
    """

    url: str
    size_bytes: int | None = None
    sha256: str | None = None
    about: str | None = None
    unpack: bool = False
    minimal: bool = False

    @property
    def name(self) -> str:
        """The last part of the address: the file's name on disk."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2]


@dataclass(frozen=True)
class PublicSet:
    """A public data set: either it has `files`, or it says in `instead` what the user must do.

    `licence` is None where we found none stated; `licence_source` is where we read it, or looked.
    `checksums` says who states the sizes and checksums of the files.
    """

    title: str
    home: str
    licence: str | None
    licence_source: str
    files: tuple[RemoteFile, ...] = ()
    checksums: str | None = None
    photos_in: str | None = None
    instead: str | None = None


# `https://images.cocodataset.org` shows the certificate of its storage: this is that storage.
_COCO = "https://s3.amazonaws.com/images.cocodataset.org"
_COCO_LICENCE = "annotations CC BY 4.0; photos under the terms of Flickr, each its own"
_COCO_TERMS = "https://cocodataset.org/#termsofuse"
_TFDS = "TensorFlow Datasets, url_checksums/{}.txt"
_VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_OKVQA = "https://okvqa.allenai.org/static/data"
_GQA = "https://downloads.cs.stanford.edu/nlp/data/gqa"
_TEXTVQA = "https://dl.fbaipublicfiles.com/textvqa"
_GENOME_PHOTOS = "https://cs.stanford.edu/people/rak248/VG_100K_2"
_GENOME = "https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset"
_NARRATIVES = "https://storage.googleapis.com/localized-narratives/annotations"

SETS = {
    "coco": PublicSet(
        "COCO 2017: photos, captions, objects",
        "https://cocodataset.org",
        _COCO_LICENCE,
        _COCO_TERMS,
        (
            RemoteFile(
                f"{_COCO}/annotations/annotations_trainval2017.zip",
                252_907_541,
                "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
                unpack=True,
                minimal=True,
            ),
            RemoteFile(
                f"{_COCO}/zips/val2017.zip",
                815_585_330,
                "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
                unpack=True,
                minimal=True,
            ),
            RemoteFile(
                f"{_COCO}/zips/train2017.zip",
                19_336_861_798,
                "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
                unpack=True,
            ),
        ),
        checksums=_TFDS.format("coco2017"),
    ),
    "coco2014": PublicSet(
        "COCO 2014: the photos of VQA v2, OK-VQA and RefCOCO",
        "https://cocodataset.org",
        _COCO_LICENCE,
        _COCO_TERMS,
        (
            RemoteFile(
                f"{_COCO}/annotations/annotations_trainval2014.zip",
                252_872_794,
                "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
                unpack=True,
                minimal=True,
            ),
            RemoteFile(
                f"{_COCO}/zips/val2014.zip",
                6_645_013_297,
                "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
                unpack=True,
                minimal=True,
            ),
            RemoteFile(
                f"{_COCO}/zips/train2014.zip",
                13_510_573_713,
                "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
                unpack=True,
            ),
        ),
        checksums=_TFDS.format("coco"),
    ),
    "vqav2": PublicSet(
        "VQA v2: questions and answers",
        "https://visualqa.org/download.html",
        "annotations CC BY 4.0",
        "https://visualqa.org/terms.html",
        (
            RemoteFile(
                f"{_VQA}/v2_Questions_Val_mscoco.zip",
                sha256="e71f6c5c3e97a51d050f28243e262b28cd0c48d11a6b4632d769d30d3f93222a",
                unpack=True,
                minimal=True,
            ),
            RemoteFile(
                f"{_VQA}/v2_Annotations_Val_mscoco.zip",
                sha256="0caae7c8d1dafd852727f5ac046bc1efca9b72026bd6ffa34fc489f3a7b3291e",
                unpack=True,
                minimal=True,
            ),
            RemoteFile(
                f"{_VQA}/v2_Questions_Train_mscoco.zip",
                sha256="05a64b6e2582d06d7585f5429674a9a33851878be1bff9f8668cdcf792df611e",
                unpack=True,
            ),
            RemoteFile(
                f"{_VQA}/v2_Annotations_Train_mscoco.zip",
                sha256="fb101bcefe91422c543c2bb6d70af11eb3119d0ff745ae283d09acdf66250853",
                unpack=True,
            ),
        ),
        checksums="ParlAI, parlai/tasks/vqa_v2/build.py",
        photos_in="coco2014",
    ),
    "okvqa": PublicSet(
        "OK-VQA: questions that need knowledge",
        "https://okvqa.allenai.org/download.html",
        "annotations CC BY 4.0",
        "the annotation files, as told in https://github.com/allenai/aokvqa/issues/10",
        (
            RemoteFile(
                f"{_OKVQA}/OpenEnded_mscoco_val2014_questions.json.zip", unpack=True, minimal=True
            ),
            RemoteFile(f"{_OKVQA}/mscoco_val2014_annotations.json.zip", unpack=True, minimal=True),
            RemoteFile(f"{_OKVQA}/OpenEnded_mscoco_train2014_questions.json.zip", unpack=True),
            RemoteFile(f"{_OKVQA}/mscoco_train2014_annotations.json.zip", unpack=True),
        ),
        photos_in="coco2014",
    ),
    "aokvqa": PublicSet(
        "A-OKVQA: questions with rationales",
        "https://github.com/allenai/aokvqa",
        "annotations CC BY 4.0",
        "https://github.com/allenai/aokvqa/issues/10, by an author",
        (
            RemoteFile(
                "https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz",
                unpack=True,
                minimal=True,
            ),
        ),
        photos_in="coco",
    ),
    "gqa": PublicSet(
        "GQA: questions on scene graphs, with photos",
        "https://cs.stanford.edu/people/dorarad/gqa/download.html",
        None,
        "its home page; https://github.com/tensorflow/datasets/issues/300 reports CC BY 4.0",
        (
            RemoteFile(f"{_GQA}/sceneGraphs.zip", about="42.7 MB", unpack=True, minimal=True),
            RemoteFile(f"{_GQA}/questions1.2.zip", about="1.4 GB", unpack=True, minimal=True),
            RemoteFile(f"{_GQA}/images.zip", unpack=True),
        ),
    ),
    "llava-instruct": PublicSet(
        "LLaVA-Instruct-150K: conversations written by GPT-4",
        "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
        "CC BY NC 4.0, and the terms of OpenAI and GPT-4",
        "https://github.com/haotian-liu/LLaVA, README.md",
        (
            RemoteFile(
                "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K/resolve/main/"
                "llava_instruct_150k.json",
                228_941_895,
                "6b68bc5ca2bfd8a71119af0e8454929668ccda6a334955ccc95d114fc8d082fa",
                minimal=True,
            ),
        ),
        checksums="copies of the file in two other repositories, which agree; 229 MB by its author",
        photos_in="coco",
    ),
    "textvqa": PublicSet(
        "TextVQA: questions on text in photos",
        "https://textvqa.org/dataset",
        None,
        "https://textvqa.org, which we could not read",
        (
            RemoteFile(f"{_TEXTVQA}/data/TextVQA_0.5.1_val.json", minimal=True),
            RemoteFile(f"{_TEXTVQA}/data/TextVQA_0.5.1_train.json"),
            RemoteFile(f"{_TEXTVQA}/images/train_val_images.zip", unpack=True),
        ),
    ),
    "visual-genome": PublicSet(
        "Visual Genome: regions of photos, described",
        "https://homes.cs.washington.edu/~ranjay/visualgenome",
        None,
        "its home page, which we could not read",
        (
            RemoteFile(f"{_GENOME}/region_descriptions.json.zip", unpack=True, minimal=True),
            RemoteFile(f"{_GENOME_PHOTOS}/images.zip", unpack=True),
            RemoteFile(f"{_GENOME_PHOTOS}/images2.zip", unpack=True),
        ),
    ),
    "localized-narratives": PublicSet(
        "Localized Narratives of COCO: long spoken captions",
        "https://google.github.io/localized-narratives",
        None,
        "its home page, which we could not read",
        (
            RemoteFile(f"{_NARRATIVES}/coco_val_localized_narratives.jsonl", minimal=True),
            *(
                RemoteFile(f"{_NARRATIVES}/coco_train_localized_narratives-{i:05d}-of-00004.jsonl")
                for i in range(4)
            ),
        ),
        photos_in="coco",
    ),
    "refcoco": PublicSet(
        "RefCOCO, RefCOCO+, RefCOCOg",
        "https://github.com/lichengunc/refer",
        None,
        "its README.md",
        instead="its server has been down since 2022 and its files are pickles, which can run code "
        "when they are read, so look for copies in https://github.com/lichengunc/refer/issues/14 "
        "and take the photos from coco2014",
    ),
    "ocrvqa": PublicSet(
        "OCR-VQA: book covers",
        "https://ocr-vqa.github.io",
        None,
        "its home page, which we could not read",
        instead="its authors give a folder on Google Drive with a script that fetches each cover, "
        "so begin at https://ocr-vqa.github.io",
    ),
    "cc3m": PublicSet(
        "Conceptual Captions (CC3M)",
        "https://ai.google.com/research/ConceptualCaptions/download",
        None,
        "its home page, which we could not read",
        instead="it is a list of captions and addresses of photos on other servers, many of them "
        "gone, so take the list from https://ai.google.com/research/ConceptualCaptions/download "
        "and fetch the photos with a tool for such lists",
    ),
    "laion-coco": PublicSet(
        "LAION-COCO",
        "https://laion.ai/blog/laion-coco",
        None,
        "its home page, which we could not read",
        instead="it is a list of 600 million addresses of photos on other servers, with captions "
        "written by a model, so take the list from https://laion.ai/blog/laion-coco and fetch a "
        "part of it with a tool for such lists",
    ),
    "flickr30k": PublicSet(
        "Flickr30k",
        "https://forms.illinois.edu/sec/229675",
        None,
        "its form, which we could not read",
        instead="its photos are given to those who fill in https://forms.illinois.edu/sec/229675",
    ),
    "incidents1m": PublicSet(
        "Incidents1M: disasters and accidents",
        "http://incidentsdataset.csail.mit.edu",
        None,
        "the README.md of its authors",
        instead="its authors send the list of addresses and labels to those who write to "
        "incidentsdataset@googlegroups.com",
    ),
}
