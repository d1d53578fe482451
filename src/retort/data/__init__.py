"""Text and data in and out: every reader looks at the content of its source, every writer reads back the same."""

from retort.data.fingerprint import fingerprint
from retort.data.formats import check_source
from retort.data.kd_sets import write_colbert, write_flag_embedding, write_id_tables, write_tevatron
from retort.data.lists import read_candidates, read_qrels
from retort.data.passages import read_corpus
from retort.data.queries import read_queries
from retort.data.scores import read_scores
from retort.data.writers import write_beir, write_fid_json, write_trec_qrels, write_trec_run

__all__ = [
    "check_source",
    "fingerprint",
    "read_candidates",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_scores",
    "write_beir",
    "write_colbert",
    "write_fid_json",
    "write_flag_embedding",
    "write_id_tables",
    "write_tevatron",
    "write_trec_qrels",
    "write_trec_run",
]
