// Alleles from memory, for the tests of scorers.
#pragma once

#include <utility>
#include <vector>

#include "pipelines/allele.h"

namespace chromamba::tests {

class ListedAlleles : public pipelines::AlleleSource {
 public:
  explicit ListedAlleles(std::vector<pipelines::Allele> alleles) : alleles_(std::move(alleles)) {}
  bool next(pipelines::Allele& allele) override {
    if (next_ == alleles_.size()) return false;
    allele = alleles_[next_++];
    return true;
  }

 private:
  std::vector<pipelines::Allele> alleles_;
  size_t next_ = 0;
};

}  // namespace chromamba::tests
