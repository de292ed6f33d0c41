# Command-line tests of chromamba: see run_cli.sh for the format, make_inputs.py for the files.
# ref.fa has chrA (7,003 bases, two runs of N), chrB (12,345), chrC (1) and chrD (61).

[usage]

no command prints how to use it
  $ ! chromamba 2>text
  $ grep -q "usage: chromamba COMMAND" text
  $ rm text
help
  $ chromamba --help
  out ^usage: chromamba COMMAND
  out ^  score
  out ^  embed
help of score prints groups and defaults
  $ chromamba score --help
  out ^usage: chromamba score INPUT
  out ^Input:
  out --strand STRAND \(=forward\)
  out --left-context N\|full \(=131072\)
  out --memory SIZE \(=4G\)
help of embed prints groups and defaults
  $ chromamba embed -h
  out ^usage: chromamba embed INPUT
  out --layer K\|final \(=final\)
  out --bin N \(=1\)
  out --dtype-out f16\|f32 \(=f16\)
help of the others
  $ chromamba info --help; chromamba selftest --help; chromamba bench --help
  out ^usage: chromamba info
  out ^usage: chromamba selftest
  out ^usage: chromamba bench
version
  $ chromamba --version
  out ^chromamba [0-9]+\.[0-9]+
unknown command
  $ chromamba scoer ref.fa
  exit 2
  err 'scoer'.*--help
unknown option of the program
  $ chromamba --bogus
  exit 2
  err --bogus
unknown long option
  $ chromamba score ref.fa --bogus -o x.h5
  exit 2
  err --bogus
unknown short option
  $ chromamba score ref.fa -x -o x.h5
  exit 2
  err -x
abbreviated options are not guessed
  $ chromamba score ref.fa --stra reverse -o x.h5
  exit 2
  err --stra
score without input
  $ chromamba score -o x.h5
  exit 2
  err INPUT
embed without input
  $ chromamba embed -o x.h5
  exit 2
  err INPUT
embed without output
  $ chromamba embed ref.fa
  exit 2
  err -o OUT\.h5
two inputs
  $ chromamba score ref.fa lower.fa -o x.h5
  exit 2
  err lower\.fa
output of no known format
  $ chromamba score ref.fa -o x.foo
  exit 2
  err x\.foo.*\.h5, \.bw, \.bedgraph
output without a suffix
  $ chromamba score ref.fa -o x
  exit 2
  err -o x:
type of no known format
  $ chromamba score ref.fa -O foo -o x.h5
  exit 2
  err -O foo
binary formats do not go to standard output
  $ chromamba score ref.fa -O h5
  exit 2
  err standard output
embed does not go to standard output
  $ chromamba embed ref.fa -o -
  exit 2
  err standard output
bad strand
  $ chromamba score ref.fa --strand up -o x.h5
  exit 2
  err --strand up.*forward, reverse, both or mean
bad memory
  $ chromamba score ref.fa --memory lots -o x.h5
  exit 2
  err --memory lots
too little memory
  $ chromamba score ref.fa $L --memory 1k -o x.h5
  exit 3
  err --memory
chunk size 0
  $ chromamba score ref.fa --chunk-size 0 -o x.h5
  exit 2
  err --chunk-size 0
negative chunk size
  $ chromamba score ref.fa --chunk-size -5 -o x.h5
  exit 2
  err --chunk-size -5
chunk size beyond 64 bits
  $ chromamba score ref.fa --chunk-size 99999999999g -o x.h5
  exit 2
  err --chunk-size 99999999999g
no threads
  $ chromamba score ref.fa -@ 0 -o x.h5
  exit 2
  err --threads 0
bad left context
  $ chromamba score ref.fa --left-context some -o x.h5
  exit 2
  err --left-context some
bad instruction set
  $ chromamba score ref.fa --simd mmx -o x.h5
  exit 2
  err mmx
bad device
  $ chromamba score ref.fa --device tpu -o x.h5
  exit 2
  err --device tpu
bad device number
  $ chromamba score ref.fa --device cuda:one -o x.h5
  exit 2
  err --device cuda:one
a GPU that no machine has
  $ chromamba score ref.fa --device cuda:999 -o x.h5
  exit 3
  err --device cuda:999
a list of GPUs with one that no machine has
  $ chromamba score ref.fa --device cuda:998,999 -o x.h5
  exit 3
  err --device cuda:998,999
a GPU twice
  $ chromamba score ref.fa --device cuda:1,0,1 -o x.h5
  exit 2
  err GPU 1 twice
a list of GPUs with a gap
  $ chromamba score ref.fa --device cuda:0,,1 -o x.h5
  exit 2
  err --device cuda:0,,1
bad dtype
  $ chromamba score ref.fa --dtype f64 -o x.h5
  exit 2
  err --dtype f64
a colon without a number
  $ chromamba embed ref.fa --device cuda: -o x.h5
  exit 2
  err --device cuda:
bench of a shape that is none
  $ chromamba bench --shape 256
  exit 2
  err --shape 256
bench of a model without width
  $ chromamba bench --shape 0x8
  exit 2
  err --shape 0x8
bench of no rows
  $ chromamba bench --pass-rows 0
  exit 2
  err --pass-rows
bench of two models
  $ chromamba bench --shape 16x1 $L
  exit 2
  err --shape and --model
bf16 is not for the CPU
  $ chromamba score ref.fa --device cpu --dtype bf16 -o x.h5
  exit 2
  err --dtype bf16
bad deflate level
  $ chromamba score ref.fa --compress 11 -o x.h5
  exit 2
  err --compress
bad --iupac
  $ chromamba score ref.fa --iupac maybe -o x.h5
  exit 2
  err --iupac maybe
layer 99
  $ chromamba embed ref.fa $L --layer 99 -o x.h5
  exit 2
  err --layer 99.*mamba1_long.* 0 .* 3
layer -1
  $ chromamba embed ref.fa $L --layer -1 -o x.h5
  exit 2
  err --layer -1
layer -1, the other way to write it
  $ chromamba embed ref.fa $L --layer=-1 -o x.h5
  exit 2
  err --layer -1
layer that is no number
  $ chromamba embed ref.fa $L --layer middle -o x.h5
  exit 2
  err --layer middle
bin 0
  $ chromamba embed ref.fa $L --bin 0 -o x.h5
  exit 2
  err --bin 0
pooled bins
  $ chromamba embed ref.fa $L --pool mean --bin 5 -o x.h5
  exit 2
  err --pool mean and --bin
bad pooling
  $ chromamba embed ref.fa $L --pool max -o x.h5
  exit 2
  err --pool max
bad number format
  $ chromamba embed ref.fa $L --dtype-out f64 -o x.h5
  exit 2
  err --dtype-out f64
info of two models
  $ chromamba info $models/mamba1_ref $models/mamba1_hf
  exit 2
  err mamba1_hf

[input]

missing file
  $ chromamba score no_such.fa $L -o x.h5
  exit 1
  err no_such\.fa: .*No such file
missing file for embed
  $ chromamba embed no_such.fa $L -o x.h5
  exit 1
  err no_such\.fa: .*No such file
a folder as input
  $ chromamba score . $L -o x.h5
  exit 1
  err \.: is a directory
empty file
  $ chromamba score empty.fa $L -o x.h5
  exit 1
  err empty\.fa: is empty
compressed empty file
  $ chromamba score empty.fa.gz $L -o x.h5
  exit 1
  err empty\.fa\.gz: is empty
empty standard input
  $ chromamba score - $L -o x.h5 </dev/null
  exit 1
  err standard input: is empty
a PNG
  $ chromamba score picture.fa $L -o x.h5
  exit 1
  err picture\.fa: is not FASTA.*PNG
a PNG from standard input
  $ chromamba embed - $L -o x.h5 <picture.fa
  exit 1
  err standard input: is not FASTA.*PNG
FASTQ
  $ chromamba score reads.fq $L -o x.h5
  exit 1
  err reads\.fq: is not FASTA.*FASTQ
bases without a header
  $ chromamba score headless.fa $L -o x.h5
  exit 1
  err headless\.fa: is not FASTA
truncated gzip
  $ chromamba score cut.fa.gz $L -o x.h5 -o x.bw -o x.tsv
  exit 1
  err cut\.fa\.gz: .*cut short
truncated gzip from standard input
  $ chromamba score - $L -o x.h5 <cut.fa.gz
  exit 1
  err standard input: .*cut short
bgzip truncated in a block
  $ chromamba score cut_in_block.fa.gz $L -o x.h5
  exit 1
  err cut_in_block\.fa\.gz: .*cut short
bgzip truncated in a block, for embed on one thread
  $ chromamba embed cut_in_block.fa.gz $L -@ 1 -o x.h5
  exit 1
  err cut_in_block\.fa\.gz: .*cut short
bgzip without its end-of-file block
  $ chromamba score cut_end_block.fa.gz $L -o x.h5
  exit 1
  err cut_end_block\.fa\.gz: .*end-of-file block
truncated bgzip with a region
  $ chromamba score cut_in_block.fa.gz $L -r chrA:1-100 -o x.h5
  exit 1
  err cut_in_block\.fa\.gz: .*cut short
damaged bgzip
  $ chromamba score damaged.fa.gz $L -o x.h5
  exit 1
  err damaged\.fa\.gz: .*damaged
duplicate contig name
  $ chromamba score duplicate.fa $L -o x.h5
  exit 1
  err duplicate\.fa: .*'chrA'.* 1 .* 5
duplicate contig name with a region
  $ chromamba score duplicate.fa $L -r chrB -o x.h5
  exit 1
  err duplicate\.fa: .*'chrA'
header without a name
  $ chromamba score nameless.fa $L -o x.h5
  exit 1
  err nameless\.fa: line 1
a byte that is no base
  $ chromamba score bad_base.fa $L -o x.h5
  exit 1
  err bad_base\.fa: contig 'chrA', position 7, line 3: .*'!'
IUPAC codes refused
  $ chromamba score iupac.fa $L --iupac error -o x.h5
  exit 1
  err iupac\.fa: contig 'chrA', position 501, .*'R'
contig name that leaves the folder
  $ chromamba score escape_up.fa $L -o x.h5
  exit 1
  err escape_up\.fa: .*'\.\./x'
contig name from the root
  $ chromamba embed escape_root.fa $L -o x.h5
  exit 1
  err escape_root\.fa: .*'/etc/x'
contig name that leaves the folder later
  $ chromamba score escape_middle.fa $L -o x.bw
  exit 1
  err escape_middle\.fa: .*'a/\.\./\.\./x'
contig name that leaves the folder, with a region
  $ chromamba score escape_up.fa $L -r '../x:1-5' -o x.h5
  exit 1
  err escape_up\.fa: .*'\.\./x'

[regions]

region that starts off the contig
  $ samtools faidx ref.fa
  $ chromamba score ref.fa $L -r chrA:7,004-7,010 -o x.h5
  exit 1
  err 'chrA:7,004-7,010'.*'chrA' \(length 7003\)
  keep ref.fa.fai
region that ends off the contig
  $ chromamba score ref.fa $L -r chrA:1-7004 -o x.h5
  exit 1
  err 'chrA:1-7004'.*'chrA' \(length 7003\)
  keep ref.fa.fai
region on an unknown contig
  $ chromamba embed ref.fa $L -r chrZ:1-10 -o x.h5
  exit 1
  err 'chrZ'
  keep ref.fa.fai
region from position 0
  $ chromamba score ref.fa $L -r chrA:0-10 -o x.h5
  exit 1
  err 'chrA:0-10'
  keep ref.fa.fai
region backwards
  $ chromamba score ref.fa $L -r chrA:20-10 -o x.h5
  exit 1
  err 'chrA:20-10'
  keep ref.fa.fai
region that cannot be read
  $ chromamba score ref.fa $L -r chrA:x-y -o x.h5
  exit 2
  err 'chrA:x-y'
  keep ref.fa.fai
region on standard input
  $ chromamba score - $L -r chrA:1-10 -o x.h5 <ref.fa
  exit 2
  err standard input
region of a gzip file
  $ chromamba score ref.fa.gz $L -r chrA:1-10 -o x.h5
  exit 1
  err ref\.fa\.gz: .*bgzip
region of a file with uneven lines
  $ chromamba score uneven.fa $L -r chrA:1-10 -o x.h5
  exit 1
  err uneven\.fa: .*lines of one length
an index of another file
  $ samtools faidx ref.fa
  $ mv ref.fa.fai lambda.fa.fai
  $ chromamba score lambda.fa $L -r chrB:1-100 -o x.h5
  exit 1
  err lambda\.fa
  keep lambda.fa.fai
missing BED
  $ chromamba score ref.fa $L -R no_such.bed -o x.h5
  exit 1
  err no_such\.bed
  keep ref.fa.fai
BED with a start after its end
  $ chromamba score ref.fa $L -R start_after_end.bed -o x.h5
  exit 1
  err start_after_end\.bed: line 2: .*'chrA' 200-100
  keep ref.fa.fai
BED with an empty region
  $ chromamba score ref.fa $L -R start_is_end.bed -o x.h5
  exit 1
  err start_is_end\.bed: line 1
  keep ref.fa.fai
BED with an unknown contig
  $ chromamba embed ref.fa $L -R unknown_contig.bed -o x.h5
  exit 1
  err unknown_contig\.bed: line 2: .*'chrZ'
  keep ref.fa.fai
BED off the contig
  $ chromamba score ref.fa $L -R off_contig.bed -o x.h5
  exit 1
  err off_contig\.bed: line 1: .*7003
  keep ref.fa.fai
BED with a negative position
  $ chromamba score ref.fa $L -R negative.bed -o x.h5
  exit 1
  err negative\.bed: line 1
  keep ref.fa.fai
BED with two columns
  $ chromamba score ref.fa $L -R two_columns.bed -o x.h5
  exit 1
  err two_columns\.bed: line 1
  keep ref.fa.fai
BED without regions
  $ chromamba score ref.fa $L -R no_regions.bed -o x.h5
  exit 1
  err no_regions\.bed
  keep ref.fa.fai
overlapping regions into bigWig
  $ chromamba score ref.fa $L -R overlapping.bed -o x.bw
  exit 1
  err chrB:101-200 .*chrB:200-300 .*x\.bw
  keep ref.fa.fai
overlapping regions into bedGraph among others
  $ chromamba score ref.fa $L -r chrA -r chrA:5-10 -o x.h5 -o x.bedgraph.gz
  exit 1
  err chrA:5-10.*x\.bedgraph\.gz
  keep ref.fa.fai
overlapping regions into HDF5 and a table
  $ chromamba score ref.fa $L -q -R overlapping.bed -o x.h5 -o x.tsv
  keep ref.fa.fai
  keep x.h5
  keep x.tsv

[checkpoints]

no such checkpoint
  $ chromamba score ref.fa -m no_such_model -o x.h5
  exit 1
  err no_such_model
a checkpoint that is a text
  $ chromamba info $models/text_weights
  exit 1
  err text_weights/model\.safetensors
folder without weights
  $ chromamba info $models/no_weights
  exit 1
  err no_weights: .*model\.safetensors
folder without config.json
  $ chromamba info $models/no_config
  exit 1
  err no_config/config\.json
config.json that is no JSON
  $ chromamba info $models/bad_config
  exit 1
  err bad_config/config\.json
config.json of another family
  $ chromamba info $models/other_family
  exit 1
  err other_family/config\.json: .*llama
empty weights
  $ chromamba info $models/empty_weights
  exit 1
  err empty_weights/model\.safetensors: .*empty
truncated weights
  $ chromamba score ref.fa -m $models/cut_weights -o x.h5
  exit 1
  err cut_weights/model\.safetensors: tensor '[^']+'
missing tensor
  $ chromamba score ref.fa -m $models/missing_tensor -o x.h5
  exit 1
  err missing_tensor/model\.safetensors: tensor 'backbone\.layers\.1\.mixer\.x_proj\.weight' is missing.*\[34, 64\]
extra tensor
  $ chromamba embed ref.fa -m $models/extra_tensor -o x.h5
  exit 1
  err extra_tensor/model\.safetensors: .*'backbone\.layers\.1\.mixer\.surprise\.weight' \[32\]
tensor of a wrong shape
  $ chromamba score ref.fa -m $models/wrong_shape/model.safetensors -o x.h5
  exit 1
  err wrong_shape/model\.safetensors: tensor 'backbone\.layers\.2\.mixer\.A_log' .*\[32, 32\].*\[64, 16\]
safetensors header of 2^60 bytes
  $ chromamba score ref.fa -m $models/huge_header -o x.h5
  exit 1
  err huge_header/model\.safetensors: .*1152921504606846976 bytes
overlapping offsets
  $ chromamba score ref.fa -m $models/overlapping -o x.h5
  exit 1
  err overlapping/model\.safetensors: tensor 'backbone\.layers\.[01]\.norm\.weight'.*overlap
a pickle that calls os.system
  $ chromamba score ref.fa -m $models/pickle_zip -o x.h5
  exit 1
  err pickle_zip/pytorch_model\.bin: .*posix\.system
a bare pickle that calls os.system
  $ chromamba embed ref.fa -m $models/pickle_plain/pytorch_model.bin -o x.h5
  exit 1
  err pickle_plain/pytorch_model\.bin
the pickles would have left a file
  $ /usr/bin/python3 -c 'import pickle, sys; pickle.load(open(sys.argv[1], "rb"))' $models/pickle_plain/pytorch_model.bin
  keep pickle_ran
missing shard
  $ chromamba info $models/shard_gone
  exit 1
  err shard_gone/model-00002-of-00002\.safetensors
shard name that leaves the folder
  $ chromamba info $models/shard_up
  exit 1
  err shard_up/model\.safetensors\.index\.json: .*'\.\./mamba1_long/model\.safetensors'
shard name from the root
  $ chromamba info $models/shard_root
  exit 1
  err shard_root/model\.safetensors\.index\.json: .*'/etc/passwd'
info of the built-in model
  $ chromamba info
  out ^parameters	935,040$
  out ^layers	8$
  out ^d_model	128$
info of a checkpoint
  $ chromamba info $models/mamba1_long
  out ^layers	3$
  out ^d_model	32$
  out ^sha256	dbcda61038c7e6de0e18397b9d5c677c7ec1a09dcbd8e6b398c196ab166c50d8$
  out ^family	mamba_ssm, Mamba-1$
  out ^objective	causal \(next base\)$
  out ^rc_equivariant	no$
  out ^strands	forward, reverse, both, mean$
info of Caduceus
  $ chromamba info $models/caduceus_ph
  out ^family	caduceus, Mamba-1, both directions \(add, tied\)$
  out ^objective	masked \(a hidden base\)$
  out ^tokens	A 7, C 8, G 9, T 10, N 11, mask 3$
  out ^score	.*--mask-stride
info of Caduceus, reverse-complement equivariant
  $ chromamba info $models/caduceus_ps
  out ^family	caduceus, Mamba-1, both directions \(add, tied\), reverse-complement equivariant$
  out ^rc_equivariant	yes$
  out ^trained_bases	131072$
  out ^strands	forward, reverse, both, mean of embeddings; a likelihood has both$
config.json of a hybrid
  $ chromamba info $models/hybrid
  exit 1
  err hybrid/config\.json: a hybrid with attention layers \('attn_layer_idx' is set\)
shards are the same model
  $ chromamba score ref.fa $L -q --no-version -o a.bedgraph
  $ chromamba score ref.fa -m $models/shards -q --no-version -o b.bedgraph
  $ cmp <(grep -v '^#' a.bedgraph) <(grep -v '^#' b.bedgraph)
  $ rm a.bedgraph b.bedgraph
safetensors and pytorch_model.bin are the same model
  $ chromamba score ref.fa -m $models/mamba1_ref -q --no-version -o a.bedgraph
  $ chromamba score ref.fa -m $models/mamba1_ref/pytorch_model.bin -q --no-version -o b.bedgraph
  $ cmp <(grep -v '^#' a.bedgraph) <(grep -v '^#' b.bedgraph)
  $ rm a.bedgraph b.bedgraph
the built-in model is human-d128
  $ chromamba score ref.fa -q --no-version -o a.h5
  $ chromamba score ref.fa -m $models/human-d128 -q --no-version -o b.h5
  $ compare same a.h5 b.h5
  $ rm a.h5 b.h5

[outputs]

output path that is a folder
  $ mkdir results.h5
  $ chromamba score ref.fa $L -o results.h5
  exit 2
  err results\.h5 is a directory
  keep results.h5
embed to a path that is a folder
  $ mkdir results.h5
  $ chromamba embed ref.fa $L -o results.h5
  exit 2
  err results\.h5 is a directory
  keep results.h5
folder that does not exist
  $ chromamba score ref.fa $L -o nowhere/x.h5
  exit 3
  err nowhere/x\.h5
second output in a folder that does not exist
  $ chromamba score ref.fa $L -o x.h5 -o x.bw -o nowhere/x.tsv
  exit 3
  err nowhere/x\.tsv
unwritable folder
  $ mkdir closed && chmod 555 closed
  $ as_nobody "$CHROMAMBA" score ref.fa $L -o closed/x.h5
  exit 3
  err closed/x\.h5: .*Permission denied
  keep closed
unwritable folder for embed
  $ mkdir closed && chmod 555 closed
  $ as_nobody "$CHROMAMBA" embed ref.fa $L -o closed/x.h5
  exit 3
  err closed/x\.h5: .*Permission denied
  keep closed
unwritable folder of the input: the index is for this run only
  $ mkdir closed open && cp ref.fa closed && chmod 555 closed && chmod 777 open
  $ as_nobody "$CHROMAMBA" score closed/ref.fa $L -r chrB:1-100 -o open/x.tsv
  $ test -s open/x.tsv
  $ rm -r open
  err closed
  keep closed
  keep closed/ref.fa
unreadable input
  $ chmod 000 lower.fa
  $ as_nobody "$CHROMAMBA" score lower.fa $L
  exit 1
  err lower\.fa: .*Permission denied
scratch folder that does not exist
  $ chromamba score ref.fa $L --strand reverse --tmp-dir nowhere -o x.h5
  exit 3
  talk
  err nowhere
the input is never overwritten
  $ chromamba score ref.fa $L -O tsv -o ./ref.fa
  exit 2
  err ref\.fa
the input is never overwritten by embed
  $ chromamba embed ref.fa $L -o ref.fa
  exit 2
  err ref\.fa
the BED file is never overwritten
  $ chromamba score ref.fa $L -R good.bed -O bedgraph -o good.bed
  exit 2
  err good\.bed
the index is never overwritten
  $ chromamba score ref.fa $L -q -r chrA:1-10 -o x.tsv && rm x.tsv
  $ chromamba score ref.fa $L -r chrA:1-10 -O tsv -o ref.fa.fai
  exit 2
  err ref\.fa\.fai: is an input
  keep ref.fa.fai
the files of a model are never overwritten
  $ cp -r "$(echo $L | cut -c4-)" model
  $ code=0; chromamba score ref.fa -m model -O h5 -o model/model.safetensors || code=$?
  $ cmp model/model.safetensors "$(echo $L | cut -c4-)/model.safetensors" || echo changed
  $ rm -r model
  $ exit $code
  exit 2
  err model/model\.safetensors: is a file of the model's folder
a link to a file that is not there yet leads there
  $ mkdir there && ln -s there/x.tsv link.tsv
  $ chromamba score ref.fa $L -q -o link.tsv
  $ test -L link.tsv && test -s there/x.tsv && rm -r there link.tsv
-O with several outputs
  $ chromamba score ref.fa $L -O bw -o x.bw -o x.tsv
  exit 2
  err several -o
two outputs under one name
  $ chromamba score ref.fa $L -o x.tsv -o ./x.tsv
  exit 2
  err x\.tsv
small disk: refused before the run
  $ on_disk 100k 'for kind in h5 bw bedgraph; do
  $   code=0; chromamba score lambda.fa $L -o disk/x.$kind 2>>errors || code=$?; [ $code -eq 3 ]; done
  $   [ "$(grep -c "^chromamba: error: folder disk: .* are free" errors)" = "$(wc -l <errors)" ]; rm errors'
small disk: refused before the run, its message
  $ on_disk 1m 'chromamba embed lambda.fa $L -o disk/x.h5'
  exit 3
  err folder disk: the job needs about .* are free
small disk: two outputs that fit alone but not together
  $ on_disk 400k 'chromamba score lambda.fa $L -o disk/x.h5 -o disk/x.bw'
  exit 3
  err folder disk
small disk: scratch space counts
  $ on_disk 100k 'chromamba score lambda.fa $L --strand reverse --tmp-dir disk -o x.tsv'
  exit 3
  err folder disk
small disk: standard input does not fit
  $ on_disk 100k 'cat long.fa | chromamba score - $L --tmp-dir disk -o x.tsv'
  exit 3
  err folder disk.*No space left
small disk: an output in place stays when a later run fails
  $ on_disk 300k 'echo old >disk/kept.bw; code=0; chromamba score lambda.fa $L -o disk/kept.bw -o disk/x.h5 || code=$?
  $   [ "$(cat disk/kept.bw)" = old ]; exit $code'
  exit 3
  err folder disk
disk that fills during the run: HDF5
  $ on_disk 4m 'while_disk_fills score lambda.fa --chunk-size 1000 -o disk/x.h5'
  exit 3
  talk
  err disk/.*x\.h5.*No space left
disk that fills during the run: bigWig
  $ on_disk 4m 'while_disk_fills score lambda.fa --chunk-size 1000 -o disk/x.bw'
  exit 3
  talk
  err disk/.*x\.bw.*No space left
disk that fills during the run: bedGraph
  $ on_disk 4m 'while_disk_fills score lambda.fa --chunk-size 1000 -o disk/x.bedgraph.gz'
  exit 3
  talk
  err disk/.*x\.bedgraph\.gz.*No space left
disk that fills during the run: all at once
  $ on_disk 16m 'while_disk_fills score lambda.fa --chunk-size 1000 -o disk/x.tsv -o disk/x.bw -o disk/x.h5 -o disk/x.bdg'
  exit 3
  talk
  err disk/.*x\..*No space left
disk that fills during the run: embeddings
  $ on_disk 16m 'while_disk_fills embed lambda.fa --chunk-size 1000 -o disk/x.h5'
  exit 3
  talk
  err disk/.*x\.h5.*No space left
disk that fills during the run: activations
  $ on_disk 96m 'while_disk_fills score long.fa $PH --memory 106M --mask-stride 20 --tmp-dir disk -o disk/x.tsv'
  exit 3
  talk
  err folder disk.*No space left
full device
  $ chromamba score ref.fa $L -O bedgraph -o /dev/full
  exit 3
  talk
  err /dev/full: No space left
full standard output
  $ chromamba score ref.fa $L -q >/dev/full
  exit 3
  err standard output: No space left
full standard output of help
  $ chromamba score --help >/dev/full
  exit 3
  err standard output
limit of the file size
  $ ulimit -f 100
  $ chromamba score long.fa $L -q -o x.h5
  exit 3
  err x\.h5
reader of standard output goes away
  $ chromamba score ref.fa $L -q -O bedgraph | true
  exit 3
  err standard output: Broken pipe
closed standard output
  $ chromamba score ref.fa $L -q >&-
  exit 3
  err standard output
closed standard streams do not end up in the output
  $ chromamba score ref.fa $L --no-version -q -o a.bedgraph
  $ chromamba score ref.fa $L --no-version -o b.bedgraph <&- >&- 2>&-
  $ chromamba score ref.fa $L --no-version -o c.bedgraph 2>&-
  $ cmp a.bedgraph b.bedgraph; cmp a.bedgraph c.bedgraph; rm ?.bedgraph
an output may be a pipe
  $ chromamba score ref.fa $L -q --no-version -o a.bedgraph
  $ chromamba score ref.fa $L -q --no-version -O bedgraph -o >(cat >b) && for _ in {1..100}; do cmp -s a.bedgraph b && break; sleep 0.1; done
  $ cmp a.bedgraph b; rm a.bedgraph b
a link to an output stays a link
  $ mkdir there && ln -s there/real.tsv x.tsv
  $ chromamba score ref.fa $L -q -o x.tsv
  $ test -L x.tsv && test -s there/real.tsv
  $ rm -r there x.tsv
quiet
  $ chromamba score ref.fa $L -q -o x.tsv 2>text
  $ test ! -s text
  $ rm x.tsv text
talk goes to stderr, data to stdout
  $ chromamba score ref.fa $L 2>text
  $ grep -q "19,344 bases scored" text
  $ rm text
  out ^chrB	0	12345	chrB	forward	12345	12344	

[signals]

SIGINT during score
  $ stopped_by INT score lambda.fa --chunk-size 500 -o x.h5 -o x.bw -o x.bedgraph -o x.tsv
  exit 130
  talk
SIGTERM during score
  $ stopped_by TERM score lambda.fa --chunk-size 500 -o x.h5 --strand both
  exit 143
  talk
SIGTERM during score of a masked model
  $ stopped_by TERM score long.fa $PH --mask-stride 50 --memory 106M -o x.h5
  exit 143
  talk
SIGHUP during embed
  $ stopped_by HUP embed lambda.fa --chunk-size 500 -o x.h5
  exit 129
  talk
SIGTERM during embed keeps an older output
  $ echo older >x.h5
  $ code=0; stopped_by TERM embed lambda.fa --chunk-size 500 -o x.h5 || code=$?
  $ [ "$(cat x.h5)" = older ]; rm x.h5; exit $code
  exit 143
  talk
SIGINT while waiting for standard input
  $ mkfifo pipe
  $ env --default-signal=INT "$CHROMAMBA" score - $L -o x.tsv <>pipe & pid=$!
  $ sleep 1; kill -INT $pid
  $ code=0; timeout 20 tail --pid=$pid -f /dev/null || { kill -KILL $pid; echo "still waiting"; }
  $ wait $pid || code=$?; rm pipe; exit $code
  exit 130
nohup: a hang-up is ignored where the caller ignores it
  $ trap '' HUP
  $ "$CHROMAMBA" score lambda.fa --chunk-size 500 -q -o x.tsv & pid=$!
  $ for _ in {1..600}; do compgen -G '.*.tmp' >/dev/null && break; sleep 0.05; done
  $ kill -HUP $pid; wait $pid
  keep x.tsv

[good_input]

standard input
  $ chromamba score ref.fa $L -q --no-version -o a.h5 -o a.tsv
  $ for file in ref.fa ref.fa.gz ref.fa.bgz; do
  $   cat $file | chromamba score - $L -q --no-version -o b.h5 -o b.tsv
  $   compare same a.h5 b.h5; cmp <(values_of a.tsv) <(values_of b.tsv)
  $ done
  $ rm ?.h5 ?.tsv
standard input for both strands
  $ chromamba score ref.fa $L -q --no-version --strand both -o a.h5
  $ chromamba score - $L -q --no-version --strand both -o b.h5 <ref.fa.bgz
  $ compare same a.h5 b.h5; rm a.h5 b.h5
standard input as a redirected file, from the middle of a pipe of commands
  $ { samtools faidx ref.fa chrD; samtools faidx ref.fa chrC; } | chromamba score - $L -q
  $ rm ref.fa.fai
  out ^chrD	0	61	chrD	forward	61	60	
  out ^chrC	0	1	chrC	forward	1	0	
a pipe with a name is read once, as standard input is
  $ chromamba score ref.fa $L -q --no-version -o a.h5
  $ chromamba score <(cat ref.fa) $L -q --no-version -o b.h5; compare same a.h5 b.h5
  $ cat ref.fa.bgz | chromamba score /dev/stdin $L -q --no-version -o b.h5; compare same a.h5 b.h5
  $ rm a.h5 b.h5
BED from a pipe and from standard input
  $ chromamba score ref.fa $L -q --no-version -R good.bed -o a.tsv
  $ chromamba score ref.fa $L -q --no-version -R <(cat good.bed) -o b.tsv; cmp a.tsv b.tsv
  $ chromamba score ref.fa $L -q --no-version -R - <good.bed -o b.tsv; cmp a.tsv b.tsv
  $ rm a.tsv b.tsv ref.fa.fai
every spelling of one genome
  $ chromamba score ref.fa $L -q --no-version -o a.h5 -o a.tsv
  $ for file in named.fa crlf.fa lower.fa rna.fa one_line.fa no_last_newline.fa blank_lines.fa ref.fa.gz \
  $             two_members.fa.gz ref.fa.bgz gzip_called.fa; do
  $   echo $file
  $   chromamba score $file $L -q --no-version -o b.h5 -o b.tsv
  $   compare same a.h5 b.h5; cmp <(values_of a.tsv) <(values_of b.tsv)
  $ done
  $ rm ?.h5 ?.tsv
every spelling of one genome, embedded
  $ chromamba embed ref.fa $L -q --no-version -o a.h5
  $ for file in crlf.fa lower.fa one_line.fa ref.fa.bgz; do
  $   chromamba embed $file $L -q --no-version -o b.h5
  $   compare same a.h5 b.h5
  $ done
  $ rm ?.h5
IUPAC codes are N, counted and told once
  $ chromamba score iupac.fa $L --strand both --no-version -o a.h5 2>text
  $ chromamba score iupac_as_n.fa $L -q --strand both --no-version -o b.h5
  $ compare same a.h5 b.h5
  $ cat text; [ "$(grep -c IUPAC text)" = 1 ]
  $ rm ?.h5 text
  out 13 IUPAC codes read as N
IUPAC codes of regions are told too
  $ chromamba score iupac.fa $L -r chrA:400-1,100 -r chrD -o x.tsv
  $ rm x.tsv
  err 2 IUPAC codes read as N
  keep iupac.fa.fai
contigs without bases
  $ chromamba score no_bases.fa $L -q --strand both --no-version -o x.h5 -o x.bw -o x.bedgraph -o x.tsv
  $ cat x.tsv
  $ chromamba embed no_bases.fa $L -q --strand both -o y.h5 && chromamba embed no_bases.fa $L -q --pool mean -o z.h5
  $ chromamba embed no_bases.fa $L -q --bin 7 -o z.h5
  $ /usr/bin/python3 -c 'import h5py
  $ for name in ("x", "y"):
  $   group = list(h5py.File(name + ".h5").values())[0]
  $   assert {k: len(v) for k, v in group.items()} == dict(none=0, one=1, void=0, all_n=100, some=50, last=0), name'
  $ rm x.* y.h5 z.h5
  out ^none	0	0	none	both	0	0	
  out ^one	0	1	one	forward	1	0	
  out ^all_n	0	100	all_n	both	100	0	
  out ^some	0	50	some	both	50	48	
2,000 tiny contigs
  $ chromamba score many.fa $L -q --no-version -o a.h5 -o a.bw -o a.tsv
  $ [ "$(grep -c ^tiny_ a.tsv)" = 2000 ]
  $ chromamba score many.fa $L -q --no-version --chunk-size 3 -@ 2 -o b.h5
  $ compare same a.h5 b.h5
  $ chromamba embed many.fa $L -q --pool mean -o c.h5
  $ /usr/bin/python3 -c 'import h5py; assert h5py.File("c.h5")["embedding"].shape == (2000, 32)'
  $ rm a.* b.h5 c.h5
several outputs at once are those of separate runs
  $ chromamba score ref.fa $L -q --no-version --strand both -o a.h5 -o a.bw -o a.bedgraph -o a.bdg.gz -o a.tsv -o a.tsv.gz
  $ for kind in h5 bw bedgraph bdg.gz tsv tsv.gz; do
  $   chromamba score ref.fa $L -q --no-version --strand both -o b.$kind; cmp a.$kind b.$kind || [ $kind = h5 ]
  $ done
  $ compare same a.h5 b.h5; chromamba score ref.fa $L -q --no-version --strand both | cmp - a.tsv
  $ zcat a.bdg.gz | cmp - a.bedgraph; zcat a.tsv.gz | cmp - a.tsv
  $ chromamba score ref.fa $L -q --no-version --strand both -O bedgraph.gz | cmp - a.bdg.gz
  $ rm a.* b.*
-O goes before the suffix
  $ chromamba score ref.fa $L -q --no-version -o a.tsv && chromamba score ref.fa $L -q --no-version -O tsv -o a.txt
  $ cmp a.tsv a.txt; rm a.tsv a.txt
the command is in the output, unless --no-version
  $ chromamba score ref.fa $L -q
  $ chromamba score ref.fa $L -q --no-version | { ! grep -E '^# (command|chromamba_version)' >&2; }
  out ^# command: chromamba score ref\.fa -m 
  out ^# chromamba_version: 
the selftest
  $ chromamba selftest
  out ^ok	

[values]

the index is samtools' own and is kept
  $ cp ref.fa own.fa; cp ref.fa.bgz own.fa.bgz
  $ chromamba score own.fa $L -q -r chrA:1-10 -o x.tsv; chromamba score own.fa.bgz $L -q -r chrA:1-10 -o x.tsv
  $ samtools faidx ref.fa; samtools faidx ref.fa.bgz
  $ cmp own.fa.fai ref.fa.fai; cmp own.fa.bgz.fai ref.fa.bgz.fai; cmp own.fa.bgz.gzi ref.fa.bgz.gzi
  $ rm own.* x.tsv ref.*.fai ref.fa.bgz.gzi
an index older than its file is told
  $ samtools faidx ref.fa; touch -d 2001-01-01 ref.fa.fai
  $ chromamba score ref.fa $L -r chrA:1-10 -o x.tsv; rm x.tsv
  err ref\.fa\.fai
  keep ref.fa.fai
regions with their default context are slices of a contig below 131,072 bases
  $ chromamba score ref.fa $L -q -o whole.h5
  $ chromamba score ref.fa $L -q -r chrB:1-5,000 -r chrA:3,990-4,200 -r chrD -r chrC -r chrB:12,000 -o part.h5
  $ compare slices whole.h5 part.h5
  $ chromamba score ref.fa.bgz $L -q -R good.bed -o part.h5
  $ compare slices whole.h5 part.h5
  $ rm *.h5 *.fai *.gzi
regions from a BED file keep their names in the table
  $ chromamba score ref.fa $L -q -R good.bed
  $ rm ref.fa.fai
  out ^chrB	100	1100	promoter	forward	1000	1000	
  out ^chrA	3990	4200	gene one	forward	210	157	
regions with their full context are slices of the contig
  $ for strand in forward reverse both; do
  $   chromamba score long.fa $L -q --strand $strand -o whole.h5
  $   chromamba score long.fa $L -q --strand $strand --left-context full -r long:139,000-140,001 -r long:1-7 -r long:59990-70000 -o part.h5
  $   compare slices whole.h5 part.h5
  $ done
  $ rm *.h5 long.fa.fai
embedded regions with their full context are slices of the contig
  $ for strand in forward reverse; do
  $   chromamba embed ref.fa $L -q --strand $strand -o whole.h5
  $   chromamba embed ref.fa $L -q --strand $strand --left-context full -R good.bed -o part.h5
  $   compare slices whole.h5 part.h5
  $ done
  $ rm *.h5 ref.fa.fai
left context starts on its grid
  $ samtools faidx long.fa long:2001-5000 | sed '1s/.*/>long/' >sub.fa
  $ chromamba score sub.fa $L -q -o sub.h5
  $ chromamba score long.fa $L -q --left-context 1000 -r long:3,001-3,500 -o part.h5
  $ compare shifted sub.h5 part.h5 2000
  $ chromamba score long.fa $L -q --left-context 1000 -r long:4,000-4,500 -o part.h5
  $ compare shifted sub.h5 part.h5 2000
  $ rm sub.* part.h5 long.fa.fai
without left context a region starts afresh
  $ samtools faidx ref.fa chrB:2001-2500 | sed '1s/.*/>chrB/' >sub.fa
  $ chromamba embed sub.fa $L -q -o sub.h5; chromamba embed ref.fa $L -q --left-context 0 -r chrB:2,001-2,500 -o part.h5
  $ compare shifted sub.h5 part.h5 2000; rm sub.* part.h5 ref.fa.fai
a region does not depend on its company
  $ chromamba score long.fa $L -q --left-context 10k -r long:50,001-50,100 -r long:55,001-55,100 -r long:20,001-60,000 -o many.h5
  $ for region in long:50,001-50,100 long:55,001-55,100 long:20,001-60,000; do
  $   chromamba score long.fa $L -q --left-context 10k -r $region -o one.h5
  $   /usr/bin/python3 -c 'import h5py
  $ (name, one), = h5py.File("one.h5")["log_likelihood"].items()
  $ assert one[()].tobytes() == h5py.File("many.h5")["log_likelihood"][name][()].tobytes(), name'
  $ done
  $ rm many.h5 one.h5 long.fa.fai
the reverse strand is the reverse complement read forward: score
  $ chromamba score reversed.fa $L -q -o a.h5; chromamba score ref.fa $L -q --strand reverse -o b.h5
  $ compare mirror a.h5 b.h5; rm a.h5 b.h5
the reverse strand is the reverse complement read forward: embed
  $ chromamba embed reversed.fa $L -q -o a.h5; chromamba embed ref.fa $L -q --strand reverse -o b.h5
  $ compare mirror a.h5 b.h5; rm a.h5 b.h5
the reverse strand is the reverse complement read forward: the built-in model
  $ chromamba score reversed.fa -q -o a.h5; chromamba score ref.fa -q --strand reverse -o b.h5
  $ compare mirror a.h5 b.h5; rm a.h5 b.h5
the left context of the reverse strand is mirrored
  $ chromamba score reversed.fa $L -q --left-context 1000 -r chrB:6,346-7,345 -o a.h5
  $ chromamba score ref.fa $L -q --left-context 1000 -r chrB:5,001-6,000 --strand reverse -o b.h5
  $ compare mirror_region a.h5 b.h5; rm a.h5 b.h5 *.fai
both strands are the two and their mean: score
  $ for strand in forward reverse both; do chromamba score ref.fa $L -q --strand $strand -o $strand.h5; done
  $ compare both both.h5 forward.h5 reverse.h5; rm *.h5
both strands are the two and their mean: embed
  $ for type in f16 f32; do
  $   for strand in forward reverse both; do chromamba embed ref.fa $L -q --dtype-out $type --strand $strand -o $strand.h5; done
  $   compare both both.h5 forward.h5 reverse.h5
  $ done
  $ rm *.h5
layers
  $ for layer in 0 1 2 3 final; do
  $   chromamba embed ref.fa $L -q --layer $layer -o $layer.h5
  $   /usr/bin/python3 -c 'import h5py, sys; assert h5py.File(sys.argv[1] + ".h5").attrs["layer"] == sys.argv[1]' $layer
  $ done
  $ ! cmp -s 3.h5 final.h5
  $ /usr/bin/python3 -c 'import h5py, numpy as np
  $ rows = h5py.File("0.h5")["embedding/chrB"][()]
  $ assert len(np.unique(rows, axis=0)) == 4, "layer 0 is the token embedding"'
  $ rm *.h5
f16 is f32 rounded
  $ chromamba embed ref.fa $L -q --dtype-out f32 -o a.h5; chromamba embed ref.fa $L -q --dtype-out f16 -o b.h5
  $ compare half a.h5 b.h5; rm a.h5 b.h5
bins
  $ chromamba embed ref.fa $L -q --dtype-out f32 -o a.h5
  $ for bin in 7 64 100000; do
  $   chromamba embed ref.fa $L -q --dtype-out f32 --bin $bin -o b.h5; compare bins a.h5 b.h5
  $   /usr/bin/python3 -c "import h5py; d = h5py.File('b.h5')['embedding/chrB']; assert d.attrs['bin'] == $bin and len(d) == -(-12345 // $bin), d"
  $ done
  $ chromamba embed ref.fa $L -q --dtype-out f32 --strand reverse -o a.h5
  $ chromamba embed ref.fa $L -q --dtype-out f32 --strand reverse --bin 7 -o b.h5; compare bins a.h5 b.h5
  $ rm a.h5 b.h5
pooled contigs and regions
  $ chromamba embed ref.fa $L -q --dtype-out f32 -o a.h5; chromamba embed ref.fa $L -q --dtype-out f32 --pool mean -o b.h5
  $ compare pooled a.h5 b.h5
  $ chromamba embed ref.fa $L -q --dtype-out f32 -R good.bed -o a.h5
  $ chromamba embed ref.fa $L -q --dtype-out f32 --pool mean -R good.bed -o b.h5
  $ compare pooled a.h5 b.h5
  $ rm a.h5 b.h5 ref.fa.fai
compression changes no value
  $ chromamba embed ref.fa $L -q --no-version -o a.h5; chromamba embed ref.fa $L -q --no-version --compress 4 -o b.h5
  $ compare same a.h5 b.h5; rm a.h5 b.h5
the reference device agrees
  $ chromamba score ref.fa $L -q --no-version -r chrA -o a.tsv; chromamba score ref.fa $L -q --no-version -r chrA --device reference -o b.tsv
  $ /usr/bin/python3 -c '
  $ a, b = [float(open(n).read().split()[-2]) for n in ("a.tsv", "b.tsv")]
  $ assert abs(a / b - 1) < 1e-5, (a, b)'
  $ rm a.tsv b.tsv ref.fa.fai

[masked]

windows are for models of two directions
  $ chromamba score ref.fa $L --window 1000 -o x.h5
  exit 2
  err --window: model .*mamba1_long is causal
masks are for masked models
  $ chromamba score ref.fa $L --mask-stride 0 -o x.h5
  exit 2
  err --mask-stride: model .*mamba1_long is causal
masks are for score
  $ chromamba embed ref.fa $PH --mask-stride 2 -o x.h5
  exit 2
  err --mask-stride
a mask stride that is no number
  $ chromamba score ref.fa $PH --mask-stride few -o x.h5
  exit 2
  err --mask-stride few
masks without a mask token
  $ chromamba score ref.fa -m $models/no_mask --mask-stride 2 -q -o x.h5
  exit 1
  err no_mask: .*mask token
strands of an RC-equivariant model's scores
  $ for strand in reverse both mean; do
  $   code=0; chromamba score ref.fa $PS --strand $strand -o x.h5 2>>errors || code=$?; [ $code = 2 ]
  $ done
  $ [ "$(grep -c "^chromamba: usage error: --strand [a-z]*: model .*caduceus_ps is reverse-complement equivariant" errors)" = 3 ]
  $ rm errors
window of nothing
  $ chromamba score ref.fa $PH --window 0 -o x.h5
  exit 2
  err --window 0
window that is no number
  $ chromamba score ref.fa $PH --window wide -o x.h5
  exit 2
  err --window wide
overlap as long as the window
  $ chromamba embed ref.fa $PH --window 1k --overlap 1000 -o x.h5
  exit 2
  err --overlap 1000: .*--window 1k
overlap without windows
  $ chromamba score ref.fa $PH --overlap 10 -o x.h5
  exit 2
  err --overlap .*--window
windows and a left context
  $ chromamba score ref.fa $PH --window 1000 --left-context 10 -o x.h5
  exit 2
  err --window and --left-context
too little memory for a block
  $ chromamba score ref.fa $PH --memory 100M --chunk-size 1M -o x.h5
  exit 3
  err chunks of 1,000,000 bases need .*--memory allows 100\.0 MiB
small disk: activations count
  $ on_disk 1m 'chromamba score long.fa $PH --memory 106M --tmp-dir disk -o x.tsv'
  exit 3
  err folder disk: the job needs about .* are free
every base but N is scored
  $ chromamba score ref.fa $PH -q --no-version
  out ^# objective: masked
  out ^# left_context: 131072
  out ^# right_context: 131072
  out ^# mask_stride: 0
  out ^chrA	0	7003	chrA	forward	7003	6940	
  out ^chrC	0	1	chrC	forward	1	1	
what was done is in the file
  $ chromamba score ref.fa $PH -q --mask-stride 3 --window 2000 -o x.h5; chromamba embed ref.fa $PS -q --window 2000 --overlap 7 --strand both -o y.h5
  $ /usr/bin/python3 -c 'import h5py
  $ x, y = h5py.File("x.h5"), h5py.File("y.h5")
  $ assert [x.attrs[n] for n in ("mask_stride", "window", "overlap", "objective")] == ["3", "2000", "250", "masked"]
  $ assert "left_context" not in x.attrs and "mask_stride" not in y.attrs and y.attrs["overlap"] == "7"
  $ assert y["embedding/chrB"].attrs["strand"] == "both" and y["embedding/chrB"].shape == (12345, 96)'
  $ rm x.h5 y.h5
no memory, threads or chunks change a value
  $ limits=("--chunk-size 256 -@ 1" "--chunk-size 1000 --memory 106M" "--memory 107M -@ 2")
  $ check() {
  $   echo "$@"; chromamba "$@" -q --no-version -o a.h5
  $   for limit in "${limits[@]}"; do echo "$limit"; chromamba "$@" -q --no-version $limit -o b.h5; compare same a.h5 b.h5; done
  $ }
  $ check score ref.fa $PH --strand both; check score ref.fa $PS --mask-stride 2; check score ref.fa $PH --window 700 --strand both
  $ check embed ref.fa $PH --strand both; check embed ref.fa $PS; check score ref.fa -m $models/one_way
  $ limits=("--chunk-size 256 -@ 1" "--chunk-size 1000 --memory 118M" "--memory 119M -@ 2")
  $ check embed ref.fa $PS --bin 7 --strand mean; check embed ref.fa $PH --pool mean --window 900 --overlap 600 --strand both
  $ rm a.h5 b.h5
the reverse strand is the reverse complement read forward
  $ for more in "score" "score --mask-stride 1" "embed"; do
  $   set -- $more; command=$1; shift
  $   chromamba $command reversed.fa $PH "$@" -q -o a.h5; chromamba $command ref.fa $PH "$@" -q --strand reverse -o b.h5
  $   compare mirror a.h5 b.h5
  $ done
  $ rm a.h5 b.h5
an RC-equivariant model scores a base and its complement alike
  $ chromamba score reversed.fa $PS -q -o a.h5; chromamba score ref.fa $PS -q -o b.h5
  $ /usr/bin/python3 -c 'import h5py, numpy as np
  $ a, b = [h5py.File(n)["log_likelihood/chrB"][()] for n in ("a.h5", "b.h5")]
  $ assert np.allclose(a, b[::-1], rtol=1e-5, atol=1e-6), "the softmax adds tokens in another order, no more"'
  $ chromamba embed reversed.fa $PS --strand mean -q -o a.h5; chromamba embed ref.fa $PS --strand mean -q -o b.h5
  $ compare mirror a.h5 b.h5
  $ chromamba embed reversed.fa $PS -q -o a.h5; chromamba embed ref.fa $PS --strand reverse -q -o b.h5
  $ compare mirror a.h5 b.h5; rm a.h5 b.h5
the halves of an RC-equivariant model
  $ for strand in forward reverse both; do chromamba embed ref.fa $PS -q --strand $strand -o $strand.h5; done
  $ compare halves both.h5 forward.h5 reverse.h5; rm *.h5
both strands are the two and their mean
  $ for command in score embed; do
  $   for strand in forward reverse both; do chromamba $command ref.fa $PH -q --strand $strand -o $strand.h5; done
  $   compare both both.h5 forward.h5 reverse.h5
  $ done
  $ rm *.h5
the mean alone is that of both strands
  $ for model in "$L" "$PH"; do
  $   for how in "score" "embed" "embed --dtype-out f32" "embed --bin 100 --compress 3" "embed --pool mean" "embed -R good.bed -r chrB:101-1,100"; do
  $     echo "$how"; set -- $how; command=$1; shift
  $     chromamba $command ref.fa $model "$@" -q --strand both -o a.h5; chromamba $command ref.fa $model "$@" -q --strand mean -o b.h5
  $     compare values a.h5 b.h5
  $     /usr/bin/python3 -c 'import h5py; f = h5py.File("b.h5"); assert sorted(f)[0] in ("embedding", "log_likelihood") and len(set(f) - {"regions"}) == 1, list(f)'
  $   done
  $ done
  $ rm a.h5 b.h5 ref.fa.fai
the mean alone in a table
  $ chromamba score ref.fa $PH -q --no-version --strand both | grep -P '\tboth\t' | sed 's/both/mean/' >a
  $ chromamba score ref.fa $PH -q --no-version --strand mean | grep -v '^#' | tail -n +2 >b
  $ cmp a b; rm a b
regions have their context on both sides
  $ samtools faidx long.fa long:2001-5000 | sed '1s/.*/>long/' >sub.fa
  $ for model in "$PH" "$PS"; do
  $   chromamba embed sub.fa $model -q -o sub.h5
  $   chromamba embed long.fa $model -q --left-context 1000 -r long:3,001-4,000 -r long:3,500-3,510 -o part.h5
  $   compare shifted sub.h5 part.h5 2000
  $ done
  $ chromamba score sub.fa $PH -q --strand both -o sub.h5
  $ chromamba score long.fa $PH -q --strand both --left-context 1000 -r long:3,001-4,000 -o part.h5
  $ compare shifted sub.h5 part.h5 2000
  $ rm sub.* part.h5 long.fa.fai
regions with their full context are slices of the contig, also in windows
  $ for more in "--left-context full" "--window 1500" "--window 300 --overlap 200 --mask-stride 3" "--left-context full --strand both" "--window 1000 --strand both"; do
  $   echo "$more"; whole=${more#--left-context full}
  $   chromamba score ref.fa $PH -q $whole -o whole.h5; chromamba score ref.fa $PH -q $more -R good.bed -r chrA:1-7 -r chrD -o part.h5
  $   compare slices whole.h5 part.h5
  $ done
  $ rm *.h5 ref.fa.fai
a region alone
  $ samtools faidx ref.fa chrB:2001-2500 | sed '1s/.*/>chrB/' >sub.fa
  $ chromamba score sub.fa $PS -q -o sub.h5; chromamba score ref.fa $PS -q --left-context 0 -r chrB:2,001-2,500 -o part.h5
  $ compare shifted sub.h5 part.h5 2000; rm sub.* part.h5 ref.fa.fai
a region does not depend on its company
  $ for more in "--left-context 10k" "--window 8k" "--left-context 2k --mask-stride 2"; do
  $   chromamba score long.fa $PH -q $more -r long:50,001-50,100 -r long:55,001-55,100 -r long:20,001-60,000 -o many.h5
  $   for region in long:50,001-50,100 long:55,001-55,100 long:20,001-60,000; do
  $     chromamba score long.fa $PH -q $more -r $region -o one.h5
  $     /usr/bin/python3 -c 'import h5py
  $ (name, one), = h5py.File("one.h5")["log_likelihood"].items()
  $ assert one[()].tobytes() == h5py.File("many.h5")["log_likelihood"][name][()].tobytes(), name'
  $   done
  $ done
  $ rm many.h5 one.h5 long.fa.fai
a window over the whole contig is exact
  $ for model in "$PH" "$PS"; do
  $   chromamba score ref.fa $model -q -o a.h5; chromamba score ref.fa $model -q --window 12345 -o b.h5
  $   compare values a.h5 b.h5
  $ done
  $ rm a.h5 b.h5
bins and means of sweeps
  $ for strand in forward reverse; do
  $   chromamba embed ref.fa $PH -q --dtype-out f32 --strand $strand -o a.h5
  $   chromamba embed ref.fa $PH -q --dtype-out f32 --strand $strand --bin 7 -o b.h5; compare bins a.h5 b.h5
  $   chromamba embed ref.fa $PH -q --dtype-out f32 --strand $strand --pool mean -o b.h5; compare pooled a.h5 b.h5
  $ done
  $ rm a.h5 b.h5
2,000 tiny contigs through one engine
  $ chromamba score many.fa $PH -q --no-version --strand both -o a.h5 -o a.tsv -o a.bw
  $ [ "$(grep -c ^tiny_ a.tsv)" = 6000 ]
  $ chromamba score many.fa $PH -q --no-version --strand both --chunk-size 3 --memory 107M -o b.h5; compare same a.h5 b.h5
  $ chromamba embed many.fa $PS -q --pool mean --strand both -o c.h5
  $ /usr/bin/python3 -c 'import h5py; assert h5py.File("c.h5")["embedding"].shape == (2000, 96)'
  $ rm a.* b.h5 c.h5
contigs without bases, masked
  $ chromamba score no_bases.fa $PH -q --strand both --mask-stride 2 -o x.tsv && cat x.tsv
  $ chromamba embed no_bases.fa $PS -q --bin 7 -o x.h5 && chromamba embed no_bases.fa $PH -q --window 20 --strand mean -o x.h5
  $ /usr/bin/python3 -c 'import h5py
  $ assert {k: len(v) for k, v in h5py.File("x.h5")["embedding"].items()} == dict(none=0, one=1, void=0, all_n=100, some=50, last=0)'
  $ rm x.*
  out ^none	0	0	none	both	0	0	
  out ^one	0	1	one	reverse	1	1	
  out ^all_n	0	100	all_n	both	100	0	
  out ^some	0	50	some	both	50	50	
standard input, masked
  $ chromamba score ref.fa $PH -q --no-version --strand both -o a.h5; cat ref.fa.gz | chromamba score - $PH -q --no-version --strand both -o b.h5
  $ compare same a.h5 b.h5; rm a.h5 b.h5
the reference device agrees on a masked model
  $ for device in cpu reference; do chromamba score ref.fa $PS -q --no-version -r chrA:1-3000 --mask-stride 2 --device $device -o $device.tsv; done
  $ /usr/bin/python3 -c '
  $ a, b = [float(open(n).read().split()[-2]) for n in ("cpu.tsv", "reference.tsv")]
  $ assert abs(a / b - 1) < 1e-5, (a, b)'
  $ rm *.tsv ref.fa.fai

[variants]

variants without a file
  $ chromamba variants -f ref.fa
  exit 2
  err IN\.vcf
variants without a reference
  $ chromamba variants some.vcf
  exit 2
  err -f REF
a file and a saturation
  $ chromamba variants some.vcf --saturate chrB:1-9 -f ref.fa
  exit 2
  err exclude
an unknown kind of output
  $ chromamba variants some.vcf -f ref.fa $L -o x.bed
  exit 2
  err x\.bed.*\.vcf
a matrix without a saturation
  $ chromamba variants some.vcf -f ref.fa $L -o x.h5
  exit 2
  err --saturate
an index of plain VCF
  $ chromamba variants some.vcf -f ref.fa $L -o x.vcf -W
  exit 2
  err -W
an index of a table alone
  $ chromamba variants some.vcf -f ref.fa $L -o x.tsv -W
  exit 2
  err -W
an index beside a table
  $ chromamba variants some.vcf -f ref.fa $L -q -o x.vcf.gz -o x.tsv -W
  $ bcftools index --nrecords x.vcf.gz
  $ rm x.vcf.gz x.vcf.gz.csi x.tsv
  out ^20$
  keep ref.fa.fai
an output over the input, the reference and another output
  $ ! chromamba variants some.vcf -f ref.fa $L -o ./some.vcf 2>text
  $ grep "input of this run" text
  $ ! chromamba variants some.vcf -f ref.fa $L --per-base ref.fa -o x.vcf 2>text
  $ grep "input of this run" text
  $ ! chromamba variants some.vcf -f ref.fa $L -o x.h5 --saturate chrB -o ./x.h5 2>text
  $ rm text
  out input of this run
modes that there are not
  $ ! chromamba variants some.vcf -f ref.fa --ref-mismatch maybe 2>text
  $ grep "skip, error or swap" text
  $ ! chromamba variants some.vcf -f ref.fa --chr-prefix maybe 2>text
  $ grep "auto or none" text
  $ ! chromamba variants some.vcf -f ref.fa --strand mean 2>text
  $ grep "mean already" text
  $ ! chromamba variants some.vcf -f ref.fa --right-context -1 2>text
  $ grep "whole number" text
  $ ! chromamba variants some.vcf -f ref.fa --window 1 $PH 2>text
  $ grep -e "--window 1" text
  $ ! chromamba variants some.vcf -f ref.fa --per-base x.h5 $PH 2>text
  $ grep "masked one" text
  $ ! chromamba variants some.vcf -f ref.fa --per-base - $L 2>text
  $ grep "standard output" text
  $ ! chromamba variants some.vcf -f ref.fa --per-base x.h5 --ref-mismatch swap $L 2>text
  $ grep "exclude" text
  $ ! chromamba variants some.vcf -f ref.fa -o /dev/null -O z -W $L 2>text
  $ grep -e "-W" text
  $ ! chromamba variants some.vcf -f ref.fa --strand forward $PS 2>text
  $ grep "equivariant" text
  $ rm text
  out skip, error or swap
a missing variant file
  $ chromamba variants no_such.vcf -f ref.fa $L -o x.vcf
  exit 1
  err no_such\.vcf.*No such file
a missing reference
  $ chromamba variants some.vcf -f no_such.fa $L -o x.vcf
  exit 1
  err no_such\.fa.*No such file
a FASTA in the place of a variant file
  $ chromamba variants ref.fa -f ref.fa.bgz $L -o x.vcf
  exit 1
  err ref\.fa: is neither VCF nor BCF
a PNG from standard input
  $ chromamba variants - -f ref.fa $L -o x.vcf <picture.fa
  exit 1
  err standard input: is neither VCF nor BCF.*PNG
  keep ref.fa.fai
truncated bgzip
  $ chromamba variants cut.vcf.gz -f ref.fa $L -o x.vcf -o x.tsv
  exit 1
  err cut\.vcf\.gz: .*cut short
bgzip without its end-of-file block
  $ chromamba variants cut_end_block.vcf.gz -f ref.fa $L -o x.vcf.gz -W
  exit 1
  err cut_end_block\.vcf\.gz: .*end-of-file block
records without a header
  $ chromamba variants headless.vcf -f ref.fa $L -o x.vcf
  exit 1
  err headless\.vcf: is neither
too few columns
  $ chromamba variants columns.vcf -f ref.fa $L -o x.vcf
  exit 1
  err columns\.vcf: line 7
  keep ref.fa.fai
a position that is no number
  $ chromamba variants bad_pos.vcf -f ref.fa $L -o x.vcf
  exit 1
  err bad_pos\.vcf: line 27.*five
  keep ref.fa.fai
an END that is no number
  $ chromamba variants bad_end.vcf -f ref.fa $L -o x.vcf
  exit 1
  err bad_end\.vcf: line 8.*END
  keep ref.fa.fai
a contig that the header does not list
  $ chromamba variants unlisted.vcf -f ref.fa $L -o x.vcf
  exit 1
  err unlisted\.vcf: line 27.*chrZ
  keep ref.fa.fai
a contig that the reference does not have, with --strict
  $ chromamba variants absent.vcf -f ref.fa $L --strict -o x.vcf
  exit 1
  err absent\.vcf: line 28.*gone
  keep ref.fa.fai
a REF that the reference does not have, with --ref-mismatch error
  $ chromamba variants mismatch.vcf -f ref.fa $L --ref-mismatch error -o x.vcf
  exit 1
  err mismatch\.vcf: line 27.*chrB:200
  keep ref.fa.fai
an index of records that are not sorted
  $ chromamba variants mismatch.vcf -f ref.fa $L -o x.vcf.gz -W
  exit 1
  err mismatch\.vcf: line 27.*sort
  keep ref.fa.fai
too little memory
  $ chromamba variants some.vcf -f ref.fa --memory 1M -o x.vcf
  exit 3
  err --memory 1\.0 MiB.*need [0-9.]+ MiB at least
a folder that does not exist
  $ chromamba variants some.vcf -f ref.fa $L -o nowhere/x.vcf
  exit 3
  err nowhere
  keep ref.fa.fai
a saturation outside of the reference
  $ chromamba variants --saturate chrB:1-99999 -f ref.fa $L -o x.h5
  exit 1
  err chrB
  keep ref.fa.fai
absent contigs, mismatches, a negative END, long alleles and positions beyond the end have a reason
  $ for f in absent mismatch negative_end long; do chromamba variants $f.vcf -f ref.fa $L -q -O tsv | tail -n 2 | cut -f 1,2,6,9; done 2>warned
  $ rm warned
  out ^gone\s5\s\.\sNO_CONTIG$
  out ^chrB\s200\s\.\sREF_MISMATCH$
  out ^chrB\s9\s\.\sSYMBOLIC$
  out ^chrB\s300\s\.\sTOO_LONG$
  out ^chrD\s60\s\.\sOFF_CONTIG$
  keep ref.fa.fai
swapped alleles turn the sign of the score and keep the change of the embedding
  $ chromamba variants mismatch.vcf -f ref.fa $L -q --ref-mismatch swap -O tsv --embedding-change 2>warned | tail -n 1 >swapped
  $ grep -c "1 of them swapped" warned
  $ awk 'BEGIN { OFS = "\t" } /^#/ { print } $2 == 200 { t = $4; $4 = $5; $5 = t; print }' mismatch.vcf >turned.vcf
  $ chromamba variants turned.vcf -f ref.fa $L -q -O tsv --embedding-change | tail -n 1 >plain
  $ paste swapped plain | awk '{ print ($6 == -$17 && $7 == -$18 && $6 != 0 && $9 == $20 && $10 == $21 && $10 > 0) ? "opposite" : "other" }'
  $ rm swapped plain turned.vcf warned
  out ^opposite$
  keep ref.fa.fai
a run over the output of another model leaves nothing of that behind
  $ chromamba variants some.vcf -f ref.fa $L -q --embedding-change -o a.vcf
  $ chromamba variants a.vcf -f ref.fa $PS -q --no-version -o b.vcf --window 32
  $ chromamba variants some.vcf -f ref.fa $PS -q --no-version -o c.vcf --window 32
  $ diff <(grep -v chromamba_input b.vcf) <(grep -v chromamba_input c.vcf) && echo same text
  $ bcftools view -Ob -o a.bcf a.vcf 2>text
  $ chromamba variants a.bcf -f ref.fa $PS -q --window 32 | grep -c "CM_EMB\|_FWD\|_context" || true
  $ chromamba variants a.bcf -f ref.fa $PS -q --window 32 -O b | bcftools view | grep -c "CM_EMB\|_FWD\|_context" || true
  $ rm [abc].vcf a.bcf text
  out ^same text$
  out ^0$
  keep ref.fa.fai
names with and without chr
  $ chromamba variants no_prefix.vcf -f ref.fa $L -q -O tsv 2>warned | cut -f 2- >mapped
  $ grep -c "chrB" warned
  $ chromamba variants some.vcf -f ref.fa $L -q -O tsv | cut -f 2- >plain
  $ grep -v "^#\|^ " plain >a; grep -v "^#\|^ " mapped >b; cmp a b && echo same
  $ chromamba variants no_prefix.vcf -f ref.fa $L -q -O tsv --chr-prefix none | grep -c NO_CONTIG
  $ rm mapped plain warned a b
  out ^same$
  out ^20$
  keep ref.fa.fai
a file without records or without contig lines
  $ chromamba variants no_records.vcf -f ref.fa $L -q | grep -c CM_LLR
  $ chromamba variants no_contigs.vcf -f ref.fa $L -q 2>warned | grep -c "CM_LLR="
  $ rm warned
  out ^20$
  keep ref.fa.fai
the outputs do not depend on chunks, threads, memory, the form of the input nor the order of records
  $ chromamba variants some.vcf -f ref.fa $L -q --no-version -o a.vcf -o a.tsv --left-context 1000
  $ chromamba variants some.vcf.gz -f ref.fa $L -q --no-version -o b.vcf -o b.tsv --left-context 1000 -@ 3 --chunk-size 300
  $ chromamba variants - -f ref.fa.bgz $L -q --no-version -o c.vcf -o c.tsv --left-context 1000 --memory 300M <some.vcf
  $ for f in b c; do diff <(grep -v "^##chromamba_\(input\|reference\)" a.vcf) <(grep -v "^##chromamba_\(input\|reference\)" $f.vcf) && echo same records; done
  $ diff <(values_of a.tsv | grep -v "^# reference") <(values_of b.tsv | grep -v "^# reference") && echo same table
  $ rm [abc].vcf [abc].tsv
  out ^same records$
  out ^same table$
  keep ref.fa.fai
  keep ref.fa.bgz.fai
  keep ref.fa.bgz.gzi
a saturation of a BED file is that of its regions
  $ printf 'chrB\t100\t120\nchrB\t110\t130\nchrD\t0\t61\n' >some.bed
  $ chromamba variants --saturate some.bed -f ref.fa $L -q --no-version -O tsv | grep -v "^#" >a
  $ chromamba variants --saturate chrD --saturate chrB:101-130 -f ref.fa $L -q --no-version -O tsv | grep -v "^#" >b
  $ cmp a b && wc -l <a
  $ rm a b some.bed
  out ^274$
  keep ref.fa.fai
haplotypes without a sample, and with what they do not have
  $ ! chromamba variants phased.vcf -f ref.fa $L --haplotypes 2>text
  $ grep "go together" text
  $ ! chromamba variants phased.vcf -f ref.fa $L --haplotypes --sample who 2>text
  $ grep "who" text
  $ ! chromamba variants phased.vcf -f ref.fa $L --haplotypes --sample S1 -o x.vcf 2>text
  $ grep "tsv" text
  $ ! chromamba variants phased.vcf -f ref.fa $PH --haplotypes --sample S1 2>text
  $ grep "causal" text
  $ ! chromamba variants phased.vcf -f ref.fa $L --haplotypes --sample S1 --per-base x.h5 2>text
  $ grep "exclude" text
  $ rm text
  out go together
haplotypes of a sample: one row for each of each phase block
  $ chromamba variants phased.vcf -f ref.fa $L --haplotypes --sample S1 -q --no-version -o x.tsv
  $ chromamba variants - -f ref.fa $L --haplotypes --sample S1 -q --no-version --chunk-size 100 -@ 3 <phased.vcf >y.tsv
  $ cmp <(grep -v "^#" x.tsv) <(grep -v "^#" y.tsv) && echo same rows
  $ grep -v "^#" x.tsv | cut -f 1-6
  $ rm x.tsv y.tsv
  out ^same rows$
  out ^chrB\s101\s801\s\.\s1\s1$
  out ^chrB\s101\s801\s\.\s2\s2$
  out ^chrB\s1501\s1501\s7\s1\s0$
  out ^chrB\s1501\s1501\s7\s2\s1$
  keep ref.fa.fai
a haplotype of one variant has the variant's score
  $ chromamba variants phased.vcf -f ref.fa $L --haplotypes --sample S1 -q | awk '$4 == 7 && $5 == 2 { print $7, $8, $9 }' >a
  $ chromamba variants phased.vcf -f ref.fa $L -q -O tsv | awk '$2 == 1501 { print $6, $7, $8 }' >b
  $ cmp a b && echo same score
  $ rm a b
  out ^same score$
  keep ref.fa.fai
a signal leaves nothing behind
  $ stopped_by TERM variants --saturate NC_001416.1 -f lambda.fa -o x.vcf -o x.tsv -o x.h5
  exit 143
  talk
  keep lambda.fa.fai

[determinism]

score, forward: no chunk size and no number of threads changes a byte
  $ run() { chromamba score long.fa $L -q --no-version "$@"; }
  $ run --chunk-size 1000000 -@ 1 -o a.h5 -o a.bw -o a.bedgraph -o a.tsv
  $ sleep 1.1
  $ for how in "1000 1" "4096 1" "65536 1" "1000 2" "65536 2" "1000000 2"; do
  $   run --chunk-size ${how% *} -@ ${how#* } -o b.h5 -o b.bw -o b.bedgraph -o b.tsv
  $   echo "chunks of ${how% *} bases, ${how#* } threads"; compare same a.h5 b.h5
  $   for kind in bw bedgraph tsv; do cmp a.$kind b.$kind; done
  $ done
  $ rm a.* b.*
score, reverse: no chunk size and no number of threads changes a byte
  $ run() { chromamba score long.fa $L -q --no-version --strand reverse "$@"; }
  $ run --chunk-size 1000000 -@ 1 -o a.h5 -o a.bw -o a.bedgraph -o a.tsv
  $ sleep 1.1
  $ for how in "1000 1" "4096 1" "65536 1" "1000 2" "65536 2" "1000000 2"; do
  $   run --chunk-size ${how% *} -@ ${how#* } -o b.h5 -o b.bw -o b.bedgraph -o b.tsv
  $   echo "chunks of ${how% *} bases, ${how#* } threads"; compare same a.h5 b.h5
  $   for kind in bw bedgraph tsv; do cmp a.$kind b.$kind; done
  $ done
  $ rm a.* b.*
embed: no chunk size and no number of threads changes a value
  $ for strand in forward reverse; do
  $   for more in "--bin 1" "--bin 7 --compress 1" "--pool mean"; do
  $     chromamba embed lambda.fa $L -q --no-version --strand $strand $more -o a.h5
  $     for how in "1000 1" "4096 2"; do
  $       chromamba embed lambda.fa $L -q --no-version --strand $strand $more --chunk-size ${how% *} -@ ${how#* } -o b.h5
  $       echo "$strand, $more, chunks of ${how% *} bases, ${how#* } threads"; compare same a.h5 b.h5
  $     done
  $   done
  $ done
  $ rm a.h5 b.h5
HDF5 files of the same run are the same bytes
  $ chromamba score ref.fa $L -q --no-version -o a.h5; chromamba embed ref.fa $L -q --no-version -o c.h5
  $ sleep 1.1
  $ chromamba score ref.fa $L -q --no-version --chunk-size 1000 -@ 2 -o b.h5; chromamba embed ref.fa $L -q --no-version --chunk-size 1000 -@ 2 -o d.h5
  $ cmp a.h5 b.h5; cmp c.h5 d.h5; rm *.h5
the built-in model: no chunk size and no number of threads changes a value
  $ chromamba score ref.fa -q --no-version --strand both -@ 1 -o a.h5
  $ chromamba score ref.fa -q --no-version --strand both --chunk-size 1000 -@ 2 -o b.h5
  $ compare same a.h5 b.h5; rm a.h5 b.h5
