#!/usr/bin/env bash
# Trains and tests the paper's arms on the toy world, on a CPU. Creates a virtual environment on first use.
#   bash toy/run.sh            a first look: the five arms of the paper's Table 1, trained on math, one seed
#   bash toy/run.sh all        all arms, trained on math and on code, and all tests; for three seeds: SEEDS=3 bash toy/run.sh all
#   bash toy/run.sh ablation   online SML on math with other γ, g, N, returns and advantages, each with the same number of dialogues
#   bash toy/run.sh worlds     counts in how many of 8 worlds, drawn at random, each claim comes out; 12 worlds: WORLDS=12 bash toy/run.sh worlds
# You can stop the script at any moment; the same command resumes it. Results and logs go to runs/toy. RL takes 100 steps.
# For 300 steps and another folder: STEPS=300 OUT=runs/longer bash toy/run.sh all; for another base model and
# learning rate of RL: BASE=FOLDER RATE=4e-4 OUT=runs/other bash toy/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-look}
case $what in look | all | ablation | worlds) ;; *) echo "error: $what: unknown word; write bash toy/run.sh, and behind it nothing, all, ablation or worlds" >&2; exit 2 ;; esac
case ${SEEDS:-1} in [1-9] | 10) ;; *) echo "error: SEEDS=$SEEDS: is no number from 1 to 10" >&2; exit 2 ;; esac
case ${WORLDS:=8} in [1-9] | [1-9][0-9]) ;; *) echo "error: WORLDS=$WORLDS: is no number from 1 to 99" >&2; exit 2 ;; esac
. toy/environment.sh
out=${OUT:-runs/toy}/$what
weak=$out/weak-teacher # for Fig. 2: a base model trained on few tokens; three in ten of its hints are false
[ "$what" != all ] || [ -e "$weak/README.md" ] || { echo "training the weak teacher of Fig. 2"; python toy/make_base.py --tokens 620000 --out "$weak" >/dev/null; }
export OMP_NUM_THREADS=1 # two processes run side by side, each with one thread

talk="--prompts toy/prompts.json --max-tokens 8 --teacher-temperature 0.7 --threads 1"
sft="--lr 5e-4 --threads 1"
base=${BASE:-toy/base} unit=seed rate=${RATE:-8e-4}
[ "$what" != worlds ] || unit=world rate=${RATE:-2e-4} # each world has a folder and a base of its own, with smaller weights
rl="--steps ${STEPS:-100} --lr $rate --save-every 20"

stage() { # name, command …: runs a stage, writes its output to a log, prints its time and result, or why it failed
    local log=$dir/logs/$1.log from=$SECONDS
    "${@:2}" --seed "$seed" >"$log" 2>&1 || { tail -n 5 "$log" >&2; exit 1; }
    local took=$((SECONDS - from)) result
    result=$(tr '\r' '\n' <"$log" | sed -n 's|^[^ :]*/\([^ :/]*: [^,]*\).*|\1|p' | paste -sd ';' | sed 's/;/; /g')
    printf '%b%-22s %2d:%02d  %s\n' "$clear" "$label$1" $((took / 60)) $((took % 60)) "${result:-finished before}"
}

begin() { # seed, domain: sets both for the following stages
    seed=$1 domain=$2 dir=$out/$unit$1/$2 problems=toy/$2_train.jsonl
    case $what in all | worlds) label="$1 $2 " ;; *) label="" ;; esac
    mkdir -p "$dir/logs"
}

dialogues() { stage "$1" python generate.py --model "$base" --problems "$problems" --samples 5 --turns "$2" --out "$dir/$1" $talk; }
mt_sft() { dialogues dialogues 4; stage mt-sft python sft.py --model "$base" $sft --data "$dir/dialogues" --out "$dir/mt-sft"; }
mt_sft_10() { dialogues dialogues-10 10; stage mt-sft-10 python sft.py --model "$base" $sft --data "$dir/dialogues-10" --out "$dir/mt-sft-10"; }
st_sft() { dialogues single-turns 1; stage st-sft python sft.py --model "$base" $sft --data "$dir/single-turns" --out "$dir/st-sft"; }
online() { # name, arguments …
    stage "$1" python grpo.py --model "$base" --problems "$problems" --batch 12 --out "$dir/$1" $rl $talk "${@:2}"
}
primed_rl() { # primed or unprimed, arguments …
    stage "$1" python qprime.py --model "$base" $sft --problems "$problems" --out "$dir/$1" $talk "${@:2}"
    online "$1-rl" --model "$dir/$1/model" --teacher-model "$base"
}
play() { # arm, name of the test, arguments …
    local model=$dir/$1/model script=evaluate.py
    [ "$1" = base ] && model=$base
    [ "$2" = -ranges ] && script=toy/held_out_feedback.py
    stage "test-$1$2" python $script play --model "$model" --teacher-model "$base" --out "$dir/tests$2/$1" $talk "${@:3}"
}

look() { # lane (1 or 2): the stages of one of the two lanes that run side by side
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
    local own arms="base st-sft st-rl mt-sft mt-rl st-rl-32 mt-sft-10 primed primed-rl unprimed-rl"
    [ "$1" = 1 ] && own=math || own=code
    for number in $(seq 0 $((${SEEDS:-1} - 1))); do
        begin "$number" $own
        mt_sft; mt_sft_10; st_sft
        online mt-rl; online st-rl --turns 1; online st-rl-32 --turns 1 --group 32; online mt-rl-weak --teacher-model "$weak"
        primed_rl primed; primed_rl unprimed --no-questions
        for arm in $arms; do
            play "$arm" "" --problems toy/math_test.jsonl toy/code_test.jsonl --losses 100 $([ "$arm" = base ] && echo --samples 4)
            play "$arm" -full --problems toy/math_shards.jsonl toy/code_shards.jsonl --turns 1
            play "$arm" -sharded --problems toy/math_shards.jsonl toy/code_shards.jsonl --sharded
            [ "$own" = code ] || play "$arm" -disputed --problems toy/math_test.jsonl --dispute
        done
        play mt-rl-weak "" --problems "toy/${own}_test.jsonl"
        for arm in base mt-rl mt-rl-weak; do # Fig. 2
            play "$arm" -by-weak --problems "toy/${own}_test.jsonl" --teacher-model "$weak"
        done
        # Controls: the base with the word that asks for the behavior; retrying alone; feedback unlike that of training
        play base -careful --problems toy/math_test.jsonl toy/code_test.jsonl --prompts toy/careful.json
        play base -careful-sharded --problems toy/math_shards.jsonl toy/code_shards.jsonl --sharded --prompts toy/careful.json
        for arm in base mt-rl; do play "$arm" -mute --problems "toy/${own}_test.jsonl" --teacher mute; done
        for arm in base st-rl mt-sft mt-rl; do play "$arm" -ranges --problems "toy/${own}_test.jsonl" --teacher ranges; done
    done
}

ablation() { # lane
    begin 0 math
    vary() { online "$@"; play "$1" "" --problems toy/math_test.jsonl; }
    if [ "$1" = 1 ]; then # each arm plays 9,600 dialogues: 100 steps of 96, by default 12 problems × 8
        vary mt-rl; vary gamma-1 --gamma 1; vary gamma-0.3 --gamma 0.3; vary g-4 --group 4 --batch 24; vary g-16 --group 16 --batch 6
    else
        vary N-8 --turns 8; vary N-2 --turns 2; vary N-1 --turns 1; vary per-turn-return --per-turn-return; vary no-std --no-std
    fi
}

worlds() { # lane: plays every second world
    for number in $(seq "$1" 2 "$WORLDS"); do
        begin "$number" math
        base=$dir/base
        [ -e "$base/world.json" ] || stage base python toy/make_base.py --world "$number" --pretrained toy/skills --out "$base" --threads 1
        mt_sft; online mt-rl; online st-rl --turns 1; online mute-rl --teacher mute
        primed_rl primed; primed_rl unprimed --no-questions
        for arm in base st-rl mt-sft mt-rl primed-rl unprimed-rl; do
            play "$arm" "" --problems toy/math_test.jsonl toy/code_test.jsonl
            play "$arm" -sharded --problems toy/math_shards.jsonl toy/code_shards.jsonl --sharded
            play "$arm" -ranges --problems toy/math_test.jsonl --teacher ranges
        done
        play mute-rl "" --problems toy/math_test.jsonl
        for arm in base mt-rl; do play "$arm" -mute --problems toy/math_test.jsonl --teacher mute; done
    done
}

report() { # name, arm to compare with, title of a table, folders …: writes the report and prints that table
    python evaluate.py compare "${@:4}" --out "$out/$1" --against "$2" >/dev/null
    awk -v title="### $3" '/^#/ { shown = index($0, title) } shown' "$out/$1/report.md"
    echo "$out/$1/report.html has the pictures, all tables and the dialogues"
}

# ------------------------------------------------------------------------- runs two lanes side by side and shows their progress

[ -t 1 ] && clear='\r\e[K' || clear=''
bar() { # log: its last progress bar, shortened
    tr '\r' '\n' <"$1" | sed -n 's/^\([a-z-]*\): *\([0-9]*%\)|[^|]*| *\([0-9.]*\/[0-9]*\).*/\1 \2 \3/p' | tail -n 1
}
show() { # prints the running stages and their progress on one line
    local line="" log
    for log in $(ls -t "$out"/$unit*/*/logs/*.log 2>/dev/null | head -n 2); do line+="$(basename "$log" .log) ($(bar "$log"))   "; done
    printf '%b%d:%02d  %s' "$clear" $((SECONDS / 60)) $((SECONDS % 60)) "$line"
}
watch() { # on a terminal, shows the progress each second; ends the lanes if this script was killed, or they would run on
    while sleep 1 && kill -0 $$ 2>/dev/null; do [ -z "$clear" ] || show; done
    kill -TERM -- -"$one" -"$two" 2>/dev/null
}

set -m # each lane becomes a process group, which can be killed as a whole
stop() { # ignores further signals, which would start it again
    trap "" INT TERM HUP
    kill -TERM -- -"$one" -"$two" ${watch:+-"$watch"} 2>/dev/null || true
    wait 2>/dev/null # the shell must not report the killed jobs
    printf '%bstopped; the same command resumes\n' "$clear" >&2
    exit 1
}
{ ("$what" 1) || kill -TERM $$; } & one=$!
{ ("$what" 2) || kill -TERM $$; } & two=$! # a lane that fails ends the other, too
trap stop INT TERM HUP
watch & watch=$!
wait "$one" "$two"
{ kill -TERM -- -"$watch"; wait "$watch"; } 2>/dev/null || true # the shell must not report the killed job
printf '%b' "$clear"

seeds=[0-$((${SEEDS:-1} - 1))] # a glob pattern
runs() { ls -d "$out"/seed$seeds/$1/{st-sft,mt-sft,mt-sft-10,primed,unprimed,st-rl,st-rl-32,mt-rl,mt-rl-weak,primed-rl,unprimed-rl} 2>/dev/null; }
case $what in
look) report report "$(basename "${base%/model}")" "Table 1:" "$out"/seed0/math/tests*/*/{math,code}_* $(runs math) ;;
all) for domain in math code; do report "report-$domain" "$(basename "${base%/model}")" "Table 1:" "$out"/seed$seeds/$domain/tests*/*/{math,code}_* $(runs $domain); done ;;
worlds) for number in $(seq "$WORLDS"); do echo "$out/world$number"; done | xargs python toy/worlds.py --out "$out" ;;
ablation) report report mt-rl "Within n turns" "$out"/seed0/math/tests/*/* "$out"/seed0/math/*-* ;;
esac
