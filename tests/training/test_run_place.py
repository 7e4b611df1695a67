from pipeline.training.run_place import digest_tables


def test_data_is_digested_by_its_tables_alone(blob_data, tmp_path):
    prepared = digest_tables([blob_data / "prepared"])
    assert prepared == digest_tables([blob_data / "prepared"])
    assert len(prepared) == len(set(prepared)) == 2
    assert digest_tables([tmp_path]) == []
