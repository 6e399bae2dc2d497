"""A second model, in Python and NumPy integers, that shares nothing with the package but its input."""

import numpy as np

import hwmodel as hw

PS = 10**12


def random_chip(rng, levels=3, capacity=(200, 3000), **options):
    """A chip whose transfers and operations take whole picoseconds; levels in no order of speed."""
    stack = []
    for k in range(levels):
        stack.append(
            hw.Level(
                name=f"level{k}",
                read_bytes_per_s=PS / int(rng.integers(1, 200)),
                write_bytes_per_s=PS / int(rng.integers(1, 200)),
                capacity_bytes=None if k == 0 else int(rng.integers(*capacity)),
                latency_s=int(rng.integers(0, 50)) / PS,
                align_bytes=int(rng.choice([1, 4, 64])),
                reserved_bytes=0 if k == 0 else int(rng.integers(0, 100)),
                ports=str(rng.choice(["shared", "dual"])),
            )
        )
    rate = hw.Rate(8, 8, 2 * PS / int(rng.integers(1, 50)))
    return hw.Chip("random", tuple(stack), (rate,), **options)


def random_work(rng, n, shared=True):
    """n operations with skips, several parents, some without weights, some that share weights."""
    ops, owners = [], []
    for i in range(n):
        parents = set() if i == 0 else {i - 1 if rng.random() < 0.9 else int(rng.integers(0, i))}
        while i and rng.random() < 0.3:
            parents.add(int(rng.integers(max(0, i - 8), i)))
        weights, owner = int(rng.integers(1, 900)), i
        if rng.random() < 0.3:
            weights, owner = 0, -1
        elif shared and owners and rng.random() < 0.1:
            owner = int(rng.choice(owners))
            weights = ops[owner].w_elems
        if owner == i:
            owners.append(i)
        made = int(rng.integers(1, 700))
        ops.append(
            hw.Operation(
                name=f"op{i}",
                kind="conv" if weights else "add",
                macs=int(rng.integers(0, 2000)),
                w_elems=weights,
                w_reads=weights,
                w_id=owner,
                bias_elems=0,
                o_elems=made,
                parents=tuple(
                    hw.Edge(
                        p, int(rng.integers(1, ops[p].o_elems + 1)) if rng.random() < 0.2 else ops[p].o_elems
                    )
                    for p in sorted(parents)
                ),
                ifm=(1, 1, 1),
                ofm=(1, 1, 1),
                ext_in=int(rng.integers(1, 300)) if i == 0 else 0,
                is_output=i == n - 1 or bool(rng.random() < 0.05),
            )
        )
    return hw.Workload(tuple(ops))


def lifetimes(work):
    """Last step of every output."""
    last = [i for i, _ in enumerate(work.operations)]
    for i, op in enumerate(work.operations):
        for edge in op.parents:
            last[edge.producer] = max(last[edge.producer], i)
    return [len(last) - 1 if op.is_output else last[i] for i, op in enumerate(work.operations)]


def rooms(work, chip):
    """(tensors, levels) bytes taken with alignment; weights of sharers are 0. 8 bits, so elements = bytes."""
    ops = work.operations
    stored = [op.w_elems if op.w_id in (-1, i) else 0 for i, op in enumerate(ops)]
    made = [op.o_elems for op in ops]
    copies = 2 if chip.double_buffer else 1
    up = lambda size, align: -(-size // align) * align  # noqa: E731
    weights = [[copies * up(s, level.align_bytes) for level in chip.levels] for s in stored]
    outputs = [[up(s, level.align_bytes) for level in chip.levels] for s in made]
    return stored, made, weights, outputs


def rectify(work, chip, wish):
    """Full occupancy profiles, step by step: (placement, moved bytes)."""
    n, levels = len(work.operations), len(chip.levels)
    stored, made, weights, outputs = rooms(work, chip)
    death = lifetimes(work)
    free = [[10**18] * n] + [[level.capacity_bytes - level.reserved_bytes] * n for level in chip.levels[1:]]
    # a level is counted in whole units of its alignment
    free = [
        [f // level.align_bytes * level.align_bytes for f in row]
        for row, level in zip(free, chip.levels, strict=True)
    ]
    granted, moved = wish.copy(), 0
    for column, needs, sizes in ((0, weights, stored), (1, outputs, made)):
        for i in range(n):
            life = range(n) if column == 0 else range(i, death[i] + 1)
            for k in range(int(wish[i, column]), -1, -1):
                if k == 0 or all(free[k][s] >= needs[i][k] for s in life):
                    for s in life:
                        free[k][s] -= needs[i][k]
                    granted[i, column] = k
                    break
            moved += sizes[i] * int(granted[i, column] != wish[i, column])
    assert levels == len(free)
    return granted, moved


def times_ps(work, chip, placement):
    """Whole picoseconds of each operation, for overlap 1 (numerator) without moves."""
    ops, out = work.operations, []
    ps = lambda rate: round(PS / rate)  # noqa: E731
    for i, op in enumerate(ops):
        reads, writes = [0] * len(chip.levels), [0] * len(chip.levels)

        def touch(table, k, size, per_byte):
            if size:
                table[k] += size * per_byte + round(chip.levels[k].latency_s * PS)

        owner = op.w_id if op.w_id >= 0 else i
        k = int(placement[owner, 0])
        touch(reads, k, op.w_elems, ps(chip.levels[k].read_bytes_per_s))
        for edge in op.parents:
            k = int(placement[edge.producer, 1])
            touch(reads, k, edge.elems, ps(chip.levels[k].read_bytes_per_s))
        k = int(placement[i, 1])
        touch(writes, k, op.o_elems, ps(chip.levels[k].write_bytes_per_s))
        if chip.external_io is not None:
            e = chip.level_index(chip.external_io)
            touch(reads, e, op.ext_in, ps(chip.levels[e].read_bytes_per_s))
            if op.is_output:
                touch(writes, e, op.o_elems, ps(chip.levels[e].write_bytes_per_s))
        compute = op.macs * round(2 * PS / chip.compute[0].ops_per_s)
        terms = [
            max(r, w) if level.ports == "dual" else r + w
            for r, w, level in zip(reads, writes, chip.levels, strict=True)
        ]
        moves = 0
        if chip.move_cost:
            for edge in op.parents:
                a, b = int(placement[edge.producer, 1]), int(placement[i, 1])
                if a != b:
                    moves += edge.elems * max(
                        ps(chip.levels[a].read_bytes_per_s), ps(chip.levels[b].write_bytes_per_s)
                    )
        out.append((max(compute, *terms), compute + sum(terms), moves))
    return out


def latency_s(work, chip, placement):
    """Seconds, from whole picoseconds."""
    times = times_ps(work, chip, placement)
    longest, total, moves = (sum(t[j] for t in times) for j in range(3))
    return (chip.overlap * longest + (1 - chip.overlap) * total + moves) / PS


def critical_path_s(work, chip, placement):
    """The longest chain of operations."""
    done = []
    for op, (longest, total, moves) in zip(work.operations, times_ps(work, chip, placement), strict=True):
        own = chip.overlap * longest + (1 - chip.overlap) * total + moves
        done.append(own + max((done[e.producer] for e in op.parents), default=0))
    return max(done) / PS


def random_placements(rng, count, n, levels):
    return rng.integers(0, levels, (count, n, 2)).astype(np.int32)
