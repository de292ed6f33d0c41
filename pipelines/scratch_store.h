// Rows of a sweep that are more than memory holds, in an unlinked file (mamba/store.h, io/pending_file.h).
#pragma once

#include <string>

#include "mamba/store.h"

namespace chromamba::pipelines {

// Makes stores in files of the folder, whose room on the disk is given back with them. ResourceError when it is full.
mamba::MakeStore scratch_stores(std::string folder);

}  // namespace chromamba::pipelines
