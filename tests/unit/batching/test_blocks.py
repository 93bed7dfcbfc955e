import pytest

from tgi_server.batching.blocks import BlockPool


def test_the_block_given_back_last_is_handed_out_first() -> None:
    pool = BlockPool(8)
    assert pool.allocate(3) == [0, 1, 2]
    second = pool.allocate(2)
    pool.release([0, 1, 2])
    assert pool.allocate(2) == [0, 1]
    assert second == [3, 4]
    assert (pool.free, pool.used) == (4, 4)


def test_more_than_free_is_refused_and_changes_nothing() -> None:
    pool = BlockPool(2)
    with pytest.raises(ValueError, match="3 blocks asked for, 2 free"):
        pool.allocate(3)
    assert pool.free == 2


def test_nothing_is_free_twice() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    pool.release(blocks)
    with pytest.raises(ValueError, match="already free"):
        pool.release([0])


def test_no_blocks_is_a_valid_number() -> None:
    assert BlockPool(2).allocate(0) == []


def test_shared_blocks_belong_to_the_last_owner_and_are_kept_after_it() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(2)
    pool.keep([b"a", b"b"], blocks)
    found = pool.find([b"a", b"b", b"c"])
    assert (found, pool.idle(found)) == (blocks, [])
    pool.share(found)
    pool.release(blocks)
    assert (pool.free, pool.used) == (1, 2)
    pool.release(found)
    assert (pool.free, pool.idle(found)) == (3, blocks)
    assert pool.allocate(2) == [1, 2] and pool.find([b"a", b"b"]) == [0], "blank ones and then the end are taken"


def test_a_key_keeps_its_first_block_and_what_builds_on_another_is_not_kept() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(1), pool.allocate(2)
    assert pool.keep([b"a"], first) == 1
    assert pool.keep([b"a", b"ab"], second) == 0, "it would outlive the first"
    pool.release(second)
    pool.release(first)
    assert pool.find([b"a"]) == first and not pool.find([b"ab"])
    assert pool.idle([*first, *second]) == first


def test_what_is_forgotten_is_blank() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    pool.keep([b"a", b"ab"], blocks)
    pool.release(blocks)
    pool.forget(b"ab", blocks[0])
    assert pool.find([b"a", b"ab"]) == blocks, "another block is meant"
    pool.forget(b"ab", blocks[1])
    assert (pool.find([b"a", b"ab"]), pool.free) == (blocks[:1], 2)
    assert pool.allocate(1) == blocks[1:]
