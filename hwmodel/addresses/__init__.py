"""Addresses inside a memory: buffers that live for a while, packed so that none overlap."""

from .allocate import allocate as allocate
from .allocation import (
    Address as Address,
    Allocation as Allocation,
    Demotion as Demotion,
    LevelUse as LevelUse,
)
from .buffers import Buffer as Buffer, lower_bound as lower_bound
from .capacity import MinCapacity as MinCapacity, lowest as lowest, min_capacity as min_capacity
from .minimalloc_csv import read_minimalloc as read_minimalloc, write_minimalloc as write_minimalloc
from .pack import Packing as Packing, pack as pack
from .placement_file import load_placement as load_placement, save_placement as save_placement
from .validate import faults as faults
