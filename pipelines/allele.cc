#include "pipelines/allele.h"

#include "kernels/base/error.h"

namespace chromamba::pipelines {

const char* status_name(AlleleStatus status) {
  switch (status) {
    case AlleleStatus::scored:
    case AlleleStatus::reference:
      return "";
    case AlleleStatus::no_contig:
      return "NO_CONTIG";
    case AlleleStatus::off_contig:
      return "OFF_CONTIG";
    case AlleleStatus::ref_mismatch:
      return "REF_MISMATCH";
    case AlleleStatus::non_acgt:
      return "NON_ACGT";
    case AlleleStatus::spanning_deletion:
      return "SPANNING_DELETION";
    case AlleleStatus::symbolic:
      return "SYMBOLIC";
    case AlleleStatus::breakend:
      return "BREAKEND";
    case AlleleStatus::too_long:
      return "TOO_LONG";
    case AlleleStatus::no_change:
      return "NO_CHANGE";
  }
  throw InternalError("status_name: no status " + std::to_string(static_cast<int>(status)));
}

}  // namespace chromamba::pipelines
