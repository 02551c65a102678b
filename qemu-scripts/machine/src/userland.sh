# The guest's userland: runs what the kernel command line names, says how it ended, and powers off.
#   tv.run=NAME[,ARGUMENT...]  one program
#   tv.run=serve               one program a line of the console, until the machine is switched off
#   tv.run=shell               a shell
busybox ifconfig lo 127.0.0.1 up
echo "guest: userland, Linux $(uname -r)"

run=
for word in $(cat /proc/cmdline); do
    case $word in tv.run=*) run=${word#tv.run=} ;; esac
done
case $run in
shell)
    echo "guest: shell ('exit' ends it and powers off)"
    busybox setsid busybox cttyhack sh
    ;;
serve)
    stty -echo
    echo "guest: ready"
    count=0
    while read -r line; do
        count=$((count + 1))
        sh -c "$line"
        echo "guest: command $count exits $?"
    done
    ;;
*)
    stty -echo
    sh -c "$(echo "$run" | tr , ' ')"
    echo "guest: exit $?"
    ;;
esac
busybox poweroff -f
