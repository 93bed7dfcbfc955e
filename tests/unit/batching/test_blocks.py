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
    assert (found, pool.idle(found)) == (blocks, 0)
    pool.share(found)
    pool.release(blocks)
    assert (pool.free, pool.used) == (1, 2)
    pool.release(found)
    assert (pool.free, pool.idle(found)) == (3, 2)
    assert pool.allocate(2) == [1, 2] and pool.find([b"a", b"b"]) == [0], "blank ones and then the end are taken"


def test_a_key_keeps_its_first_block() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    pool.keep([b"a"], blocks[:1])
    pool.keep([b"a"], blocks[1:])
    pool.release(blocks)
    assert pool.find([b"a"]) == [0]
    assert pool.idle(blocks) == 1
