#!/usr/bin/env bash
# The stages of the paper on the toy world, on a CPU. Makes a virtual environment on first use.
#   bash toy/run.sh            a first look: the five arms of the paper's Table 1, trained on math, one seed
#   bash toy/run.sh all        every arm, trained on math and on code, all tests; three seeds: SEEDS=3 bash toy/run.sh all
#   bash toy/run.sh ablation   online SML on math with other γ, g, N, returns and advantages, as many dialogues each
# Stopped at any moment, the same command goes on. Results are in runs/toy, logs of the stages beside them;
# with STEPS=300 OUT=runs/longer before the command RL takes more steps (100) and the results go elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-look}
case $what in look | all | ablation) ;; *) echo "error: $what: is nothing to run; write bash toy/run.sh, or all or ablation behind it" >&2; exit 2 ;; esac
case ${SEEDS:-1} in [1-9] | 10) ;; *) echo "error: SEEDS=$SEEDS: is no number of seeds; write 1 to 10" >&2; exit 2 ;; esac
. toy/environment.sh
out=${OUT:-runs/toy}/$what
weak=$out/weak-teacher # for Fig. 2: a base of few tokens, three in ten of whose hints are false
[ "$what" != all ] || [ -e "$weak/README.md" ] || { echo "making the weaker teacher of Fig. 2"; python toy/make_base.py --tokens 620000 --out "$weak" >/dev/null; }
export OMP_NUM_THREADS=1 # one thread for each of the two processes side by side

talk="--prompts toy/prompts.json --max-tokens 8 --teacher-temperature 0.7 --threads 1"
sft="--model toy/base --lr 5e-4 --threads 1"
rl="--steps ${STEPS:-100} --lr 8e-4 --save-every 20"

stage() { # name of the stage, command …: output goes to a log; a line tells the time and the result, or why it failed
    local log=$dir/logs/$1.log from=$SECONDS
    "${@:2}" --seed "$seed" >"$log" 2>&1 || { tail -n 5 "$log" >&2; exit 1; }
    local took=$((SECONDS - from)) result
    result=$(tr '\r' '\n' <"$log" | sed -n "s|^$out/.*/\(.*: [^,]*\).*|\1|p" | paste -sd ';' | sed 's/;/; /g')
    printf '%b%-22s %2d:%02d  %s\n' "$clear" "$label$1" $((took / 60)) $((took % 60)) "${result:-finished before}"
}

begin() { # seed, domain: of the stages that follow
    seed=$1 domain=$2 dir=$out/seed$1/$2 problems=toy/$2_train.jsonl
    [ "$what" = all ] && label="$1 $2 " || label=""
    mkdir -p "$dir/logs"
}

dialogues() { stage "$1" python generate.py --model toy/base --problems "$problems" --samples 5 --turns "$2" --out "$dir/$1" $talk; }
mt_sft() { dialogues dialogues 4; stage mt-sft python sft.py $sft --data "$dir/dialogues" --out "$dir/mt-sft"; }
st_sft() { dialogues single-turns 1; stage st-sft python sft.py $sft --data "$dir/single-turns" --out "$dir/st-sft"; }
online() { # name, arguments …
    stage "$1" python grpo.py --model toy/base --problems "$problems" --batch 12 --out "$dir/$1" $rl $talk "${@:2}"
}
primed_rl() { # primed or unprimed, arguments …
    stage "$1" python qprime.py $sft --problems "$problems" --out "$dir/$1" $talk "${@:2}"
    online "$1-rl" --model "$dir/$1/model" --teacher toy/base
}
play() { # arm, name of the test, arguments …
    local model=$dir/$1/model
    [ "$1" = base ] && model=toy/base
    stage "test-$1$2" python evaluate.py play --model "$model" --teacher toy/base --out "$dir/tests$2/$1" $talk "${@:3}"
}

look() { # lane: what one of the two processes side by side does, one stage after the other
    begin 0 math
    look_at() {
        play "$1" "" --problems toy/math_test.jsonl toy/code_test.jsonl
        play "$1" -sharded --problems toy/math_shards.jsonl --sharded
    }
    if [ "$1" = 1 ]; then
        mt_sft; look_at base; look_at mt-sft; st_sft; look_at st-sft
    else
        online mt-rl; look_at mt-rl; online st-rl --turns 1; look_at st-rl
    fi
}

all() { # lane
    local own arms="base st-sft st-rl mt-sft mt-rl primed primed-rl unprimed-rl"
    [ "$1" = 1 ] && own=math || own=code
    for number in $(seq 0 $((${SEEDS:-1} - 1))); do
        begin "$number" $own
        mt_sft; st_sft; online mt-rl; online st-rl --turns 1; online mt-rl-weak --teacher "$weak"
        primed_rl primed; primed_rl unprimed --no-questions
        for arm in $arms; do
            play "$arm" "" --problems toy/math_test.jsonl toy/code_test.jsonl --losses 100 $([ "$arm" = base ] && echo --samples 4)
            play "$arm" -sharded --problems toy/math_shards.jsonl toy/code_shards.jsonl --sharded
            [ "$own" = code ] || play "$arm" -disputed --problems toy/math_test.jsonl --dispute
        done
        play mt-rl-weak "" --problems "toy/${own}_test.jsonl"
        for arm in base mt-rl mt-rl-weak; do # Fig. 2
            play "$arm" -by-weak --problems "toy/${own}_test.jsonl" --teacher "$weak"
        done
    done
}

ablation() { # lane
    begin 0 math
    vary() { online "$@"; play "$1" "" --problems toy/math_test.jsonl; }
    if [ "$1" = 1 ]; then # 9,600 dialogues each: 100 steps of 12 problems × 8 dialogues, or as many otherwise
        vary mt-rl; vary gamma-1 --gamma 1; vary gamma-0.3 --gamma 0.3; vary g-4 --group 4 --batch 24; vary g-16 --group 16 --batch 6
    else
        vary N-8 --turns 8; vary N-2 --turns 2; vary N-1 --turns 1; vary per-turn-return --per-turn-return; vary no-std --no-std
    fi
}

report() { # name, arm to compare with, table for the terminal, folders …: the page, and that table
    python evaluate.py compare "${@:4}" --out "$out/$1" --against "$2" >/dev/null
    awk -v title="### $3" '/^#/ { shown = index($0, title) } shown' "$out/$1/report.md"
    echo "$out/$1/report.html has the pictures, all tables and the dialogues"
}

# ------------------------------------------------------------------------- two lanes side by side, and a line that shows them

[ -t 1 ] && clear='\r\e[K' || clear=''
bar() { # the last progress bar of a log, short
    tr '\r' '\n' <"$1" | sed -n 's/^\([a-z-]*\): *\([0-9]*%\)|[^|]*| *\([0-9]*\/[0-9]*\).*/\1 \2 \3/p' | tail -n 1
}
show() { # what is going on
    local line="" log
    for log in $(ls -t "$out"/seed*/*/logs/*.log 2>/dev/null | head -n 2); do line+="$(basename "$log" .log) ($(bar "$log"))   "; done
    printf '%b%d:%02d  %s' "$clear" $((SECONDS / 60)) $((SECONDS % 60)) "$line"
}
watch() { # shows it each second, on a terminal; if this script is killed the lanes end, and do not go on alone
    while sleep 1 && kill -0 $$ 2>/dev/null; do [ -z "$clear" ] || show; done
    kill -TERM -- -"$one" -"$two" 2>/dev/null
}

set -m # each lane is a process group of its own, which can be ended as a whole
stop() { # a second signal must not come back here
    trap "" INT TERM HUP
    kill -TERM -- -"$one" -"$two" ${watch:+-"$watch"} 2>/dev/null || true
    wait 2>/dev/null # not telling of the ended jobs
    printf '%bstopped; the same command goes on from there\n' "$clear" >&2
    exit 1
}
{ ("$what" 1) || kill -TERM $$; } & one=$!
{ ("$what" 2) || kill -TERM $$; } & two=$! # a lane that fails ends the other
trap stop INT TERM HUP
watch & watch=$!
wait "$one" "$two"
{ kill -TERM -- -"$watch"; wait "$watch"; } 2>/dev/null || true # the shell tells of no ended job
printf '%b' "$clear"

seeds=[0-$((${SEEDS:-1} - 1))] # a pattern
runs() { ls -d "$out"/seed$seeds/$1/{st-sft,mt-sft,primed,unprimed,st-rl,mt-rl,mt-rl-weak,primed-rl,unprimed-rl} 2>/dev/null; }
case $what in
look) report report base "Table 1:" "$out"/seed0/math/tests*/*/{math,code}_* $(runs math) ;;
all) for domain in math code; do report "report-$domain" base "Table 1:" "$out"/seed$seeds/$domain/tests*/*/{math,code}_* $(runs $domain); done ;;
ablation) report report mt-rl "Within n turns" "$out"/seed0/math/tests/*/* "$out"/seed0/math/*-* ;;
esac
