#!/usr/bin/env bash
# Every stage of the paper on the toy world, on a CPU:   bash toy/run.sh      (three seeds: SEEDS=3 bash toy/run.sh)
# Makes a virtual environment on first use. Stopped at any moment, the same command goes on. Results are in runs/toy.
set -euo pipefail
cd "$(dirname "$0")/.."
. toy/environment.sh
out=${OUT:-runs/toy}
steps=${STEPS:-100}
export OMP_NUM_THREADS=1 # one thread for each of the two processes side by side

talk="--prompts toy/prompts.json --max-tokens 8 --teacher-temperature 0.7 --threads 1"
rl="--steps $steps --batch 12 --lr 8e-4 --save-every 20"

stage() { # name of the stage, command …: output goes to a log, a failure shows its end
    local log="$dir/logs/$1.log"
    printf '%s  seed %s %s: %s\n' "$(date +%T)" "$seed" "$domain" "$1"
    "${@:2}" >"$log" 2>&1 || { tail -n 5 "$log" >&2; exit 1; }
}

arms() { # all arms that are trained on one domain, with one seed
    local seed=$1 domain=$2 dir=$out/seed$1/$2 problems=toy/$2_train.jsonl
    mkdir -p "$dir/logs"
    local common="$talk --seed $seed"
    stage dialogues python generate.py --model toy/base --problems "$problems" --samples 5 --turns 4 --out "$dir/dialogues" $common
    stage single-turns python generate.py --model toy/base --problems "$problems" --samples 5 --turns 1 --out "$dir/single-turns" $common
    stage st-sft python sft.py --model toy/base --data "$dir/single-turns" --out "$dir/st-sft" --lr 1e-3 --threads 1 --seed "$seed"
    stage mt-sft python sft.py --model toy/base --data "$dir/dialogues" --out "$dir/mt-sft" --lr 1e-3 --threads 1 --seed "$seed"
    stage st-rl python grpo.py --model toy/base --problems "$problems" --turns 1 --out "$dir/st-rl" $rl $common
    stage mt-rl python grpo.py --model toy/base --problems "$problems" --turns 4 --out "$dir/mt-rl" $rl $common
    stage mt-rl-self python grpo.py --model toy/base --teacher self --problems "$problems" --turns 4 --out "$dir/mt-rl-self" $rl $common
    stage primed python qprime.py --model toy/base --problems "$problems" --out "$dir/primed" --lr 1e-3 $common
    stage unprimed python qprime.py --model toy/base --problems "$problems" --out "$dir/unprimed" --lr 1e-3 --no-questions $common
    stage primed-rl python grpo.py --model "$dir/primed/model" --teacher toy/base --problems "$problems" --out "$dir/primed-rl" $rl $common
    stage unprimed-rl python grpo.py --model "$dir/unprimed/model" --teacher toy/base --problems "$problems" --out "$dir/unprimed-rl" $rl $common
    local own=toy/${domain}_test.jsonl tests="toy/math_test.jsonl toy/code_test.jsonl" shards="toy/math_shards.jsonl toy/code_shards.jsonl"
    for arm in base st-sft st-rl mt-sft mt-rl primed primed-rl unprimed-rl; do
        local model=$dir/$arm/model samples=1
        [ $arm = base ] && model=toy/base samples=4
        stage "test-$arm" python evaluate.py play --model "$model" --teacher toy/base --problems $tests --losses 100 --samples $samples --out "$dir/tests/$arm" $common
        stage "test-$arm-sharded" python evaluate.py play --model "$model" --teacher toy/base --problems $shards --sharded --out "$dir/tests/$arm" $common
        stage "test-$arm-disputed" python evaluate.py play --model "$model" --teacher toy/base --problems "$own" --dispute --out "$dir/tests/disputed-$arm" $common
    done
    for arm in base mt-rl mt-rl-self; do # Fig. 2: a teacher who knows the answer, and the student itself, who does not
        local model=$dir/$arm/model
        [ $arm = base ] && model=toy/base
        stage "test-$arm-by-self" python evaluate.py play --model "$model" --teacher self --problems "$own" --out "$dir/tests/by-self-$arm" $common
    done
    stage test-mt-rl-self python evaluate.py play --model "$dir/mt-rl-self/model" --teacher toy/base --problems "$own" --losses 100 --out "$dir/tests/mt-rl-self" $common
}

set -m # each of the two arms is a process group of its own, which can be ended as a whole
stop() { # a second signal must not come back here
    trap '' INT TERM
    kill -TERM -- -"$math" -"$code" 2>/dev/null || true
    wait
    echo "stopped; the same command goes on from there" >&2
    exit 1
}
for seed in $(seq 0 $((${SEEDS:-1} - 1))); do
    { (arms "$seed" math) || kill -TERM $$; } & math=$!
    { (arms "$seed" code) || kill -TERM $$; } & code=$! # an arm that fails ends the other
    trap stop INT TERM
    wait
done
for domain in math code; do
    python evaluate.py compare $out/seed*/$domain/tests/*/* $out/seed*/$domain/{st-sft,mt-sft,primed,unprimed,st-rl,mt-rl,mt-rl-self,primed-rl,unprimed-rl} --out "$out/report-$domain" >/dev/null
done
echo "done: $out/report-math and $out/report-code hold report.html, report.md, results.json and the pictures"
