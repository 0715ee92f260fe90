import pytest

from p2ch13.util.contents import describe_content

KINDS = [
    (b"", "empty"),
    (bytes(600), "zero bytes"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
    (b"<!DOCTYPE html>\n<html><body>404</body></html>", "HTML"),
    (b"\xef\xbb\xbf\r\n <HTML lang='en'>", "HTML"),
    (b"<?xml version='1.0'?>\n<!DOCTYPE html><html>", "HTML"),
    (b"<?xml version='1.0'?>\n<LidcReadMessage>", "XML"),
    (b"\x1f\x8b\x08\x00", "gzip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(8), "workbook"),
    (bytes(128) + b"DICM\x02\x00", "DICOM"),
    (bytes(257) + b"ustar\x0000", "tar"),
    (b"\x5c\x01" + bytes(342) + b"n+1\0", "NIfTI"),
    (b"ObjectType = Image\n", "MetaImage"),
    (b"seriesuid,coordX\n", None),
    (b"\x80\x02}q\x00.", None),
]


@pytest.mark.parametrize(("head", "part"), KINDS)
def test_a_file_is_named_by_its_first_bytes(head, part):
    described = describe_content(head)
    assert described is None if part is None else part in str(described)
